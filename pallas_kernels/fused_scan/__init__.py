"""`fused_scan`: a batched ``lax.scan`` whose carry never leaves the chip."""

from pallas_kernels.fused_scan.api import fused_scan

__all__ = ["fused_scan"]
