"""How a fused scan is cut for a chip (interim: one group per step)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Blocking:
    """How a kernel is cut.

    Attributes:
        groups_per_step: groups of one grid step.
        vmem_limit_bytes: VMEM that the kernel may use.
    """

    groups_per_step: int
    vmem_limit_bytes: int
