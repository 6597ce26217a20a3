"""Kernels that know nothing of the models which use them: one operation, `fused_scan`."""

from pallas_kernels.fused_scan import fused_scan

__all__ = ["fused_scan"]
