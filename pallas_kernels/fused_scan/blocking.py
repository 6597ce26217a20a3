"""How a fused scan is cut for a TPU, from shapes alone: groups per grid step, chunks per segment, VMEM.

The VMEM budget, per group of a grid step:

* every 2-D leaf is padded to tiles of 8 sublanes (32-bit; 16 sublanes for 16-bit) and 128 lanes;
* blocks count twice, because the pipeline double-buffers them; scratch counts once;
* the step's temporaries count as the most bytes alive at once in its jaxpr, backward in its VJP's.
  Over seven shapes of a deep memory on v5e the least limit that compiles was blocks and scratch plus
  at most 0.7 of that, so the budget errs to the safe side.

The cost model behind the default of ``checkpoint_every``. A chunk takes the longer of its matmuls,
at `UTILISATION` of the peak, and its HBM traffic (F, B: flops of the step and of its VJP; x, y, c:
bytes of a chunk's inputs, its outputs and the carry; e: checkpoint_every):

    forward    max(F, (x + y + c / e) / bandwidth)
    backward   max(B + F (e - 1) / e, (2 x + y + c / e) / bandwidth)

The least sum wins among the powers of two up to `MOST_UNROLLED` that fit VMEM and save at most
`SAVED_BYTES_PER_FEATURE` for each token and feature of the widest streamed leaf.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from pallas_kernels.fused_scan.jaxprs import called, equations
from pallas_kernels.fused_scan.vjp import Problem, Shapes, UnsupportedError, accumulator_dtype

MIB = 2**20
#: Share of the matrix units' peak that a step's matmuls reach (static schedules: 0.4 to 0.8).
UTILISATION = 0.5
#: Budget of carries saved for backward: 4 KiB per token of a head of 128, about what the layer around it saves.
SAVED_BYTES_PER_FEATURE = 32
#: A segment's chunks are unrolled in the kernel, so that compile time grows with them.
MOST_UNROLLED = 8
#: Groups of one grid step: two shorten v5e's and v6e's schedule by 10 to 14 % per group, four hardly more.
GROUPS_PER_STEP = 2
#: What XLA grants a kernel by default; a larger limit takes VMEM from the computations around it.
DEFAULT_VMEM_LIMIT = 16 * MIB
#: Left to the compiler: semaphores and its own scratch.
VMEM_RESERVE = MIB


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation; figures of one core.

    Attributes:
        name: as in a topology's name.
        kinds: ``device_kind`` of its devices.
        vmem: bytes.
        flops: bfloat16 per second.
        bandwidth: HBM bytes per second.
        cores: of one device, between which a parallel grid axis is split; from the device.
    """

    name: str
    kinds: tuple[str, ...]
    vmem: int
    flops: float
    bandwidth: float
    cores: int = 1


#: From jax/_src/pallas/mosaic/tpu_info.py. The compiler of libtpu 0.0.42 confirms the VMEM sizes: asked for
#: more, it names them ("Used 86M of 63.94M vmem"), and ``vmem_limit_bytes`` may go up to them.
CHIPS = (
    Chip("v4", ("TPU v4",), 16 * MIB, 1.375e14, 6.15e11),
    Chip("v5e", ("TPU v5e", "TPU v5 lite"), 128 * MIB, 1.97e14, 8.2e11),
    Chip("v5p", ("TPU v5p", "TPU v5"), 64 * MIB, 2.295e14, 1.23e12),
    Chip("v6e", ("TPU v6e", "TPU v6 lite"), 128 * MIB, 9.2e14, 1.64e12),
    Chip("TPU7x", ("TPU7x", "TPU7"), 64 * MIB, 1.155e15, 3.7e12),
)
UNKNOWN = CHIPS[1]


@dataclasses.dataclass(frozen=True)
class Blocking:
    """How a kernel is cut.

    Attributes:
        groups_per_step: groups of one grid step.
        vmem_limit_bytes: VMEM that the kernel may use.
    """

    groups_per_step: int
    vmem_limit_bytes: int


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One run of a step and of its VJP: matmul flops, and most bytes of temporaries at once."""

    flops: int
    vjp_flops: int
    temporaries: int
    vjp_temporaries: int


#: The blocking of a problem; raises `UnsupportedError`.
Cut = Callable[[Problem], Blocking]


def target_chip() -> tuple[Chip, bool]:
    """The chip that is compiled for, and whether it is known.

    It is the device of the mesh in context where there is one (``jax.set_mesh`` with the devices of
    a topology description, for a TPU that is absent), else this process's. Unknown: v5e.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    for chip in CHIPS:
        if device.device_kind in chip.kinds:
            return dataclasses.replace(chip, cores=device.num_cores), True
    return UNKNOWN, False


def step_cost(problem: Problem) -> StepCost:
    """Counts a step's matmuls and temporaries in its jaxpr."""
    primals = (problem.consts, problem.carry, problem.x)
    step = jax.make_jaxpr(problem.step)(*primals).jaxpr
    vjp = jax.make_jaxpr(problem.step_vjp)(*primals, problem.carry, problem.y).jaxpr
    return StepCost(_flops(step), _flops(vjp), _most_alive(step), _most_alive(vjp))


def checkpoint_choices(problem: Problem, cost: StepCost, chip: Chip) -> list[int]:
    """Values of ``checkpoint_every`` from the best to the worst by the module docstring's model."""
    x, y, carry = (_bytes(s) for s in (problem.x, problem.y, problem.carry))
    budget = SAVED_BYTES_PER_FEATURE * max(math.prod(s.shape) for s in problem.x)
    rate = UTILISATION * chip.flops

    def rank(every):
        saved = carry / every
        forward = max(cost.flops / rate, (x + y + saved) / chip.bandwidth)
        flops = cost.vjp_flops + cost.flops * (every - 1) / every
        backward = max(flops / rate, (2 * x + y + saved) / chip.bandwidth)
        return max(saved, budget), forward + backward

    powers = (2**i for i in range(MOST_UNROLLED.bit_length()))
    return sorted((p for p in powers if p <= problem.chunks), key=rank)


def cut(problem: Problem, *, cost: StepCost, chip: Chip, groups_per_step: int | None) -> Blocking:
    """Groups per grid step and the VMEM limit.

    Args:
        problem: what to run.
        cost: of its step.
        chip: what to run it on.
        groups_per_step: None for as many as fit and leave every core a share.

    Raises:
        UnsupportedError: not even one group fits, or not as many as asked for.
    """
    if groups_per_step is None:
        candidates = [p for p in range(GROUPS_PER_STEP, 0, -1) if _divides(problem, p, chip.cores)]
    else:
        candidates = [groups_per_step]
    available = chip.vmem - VMEM_RESERVE
    for groups in candidates:
        needed = max(vmem_bytes(problem, cost, groups))
        if needed <= available:
            limit = min(chip.vmem, max(needed, DEFAULT_VMEM_LIMIT))
            return Blocking(groups, limit)
    forward, backward = vmem_bytes(problem, cost, candidates[-1])
    raise UnsupportedError(
        f"fused_scan needs {forward / MIB:.1f} MiB of VMEM forward and {backward / MIB:.1f} MiB backward "
        f"(groups_per_step={candidates[-1]}, checkpoint_every={problem.checkpoint_every}), but {chip.name} has "
        f"{available / MIB:.1f} MiB. Make the carry ({_padded(problem.carry) / MIB:.1f} MiB) or the chunk "
        f"({_padded(problem.x) / MIB:.1f} MiB of xs) smaller, lower groups_per_step or checkpoint_every, "
        "or use implementation='xla'"
    )


def vmem_bytes(problem: Problem, cost: StepCost, groups: int) -> tuple[int, int]:
    """VMEM of the forward and of the backward kernel, by the module docstring's budget."""
    every = problem.checkpoint_every
    carry, x, y = (_padded(s) for s in (problem.carry, problem.x, problem.y))
    consts = sum(
        min(groups, sharers) * _padded((shape,))
        for shape, sharers in zip(problem.consts, problem.sharers, strict=True)
    )
    sums = _padded(
        tuple(jax.ShapeDtypeStruct(c.shape, accumulator_dtype(c.dtype)) for c in problem.consts)
    )
    # The saved carry is a block, the running one scratch; the first and the last stay in HBM.
    forward = groups * (2 * carry + carry + 2 * (x + y) + cost.temporaries)
    # Scratch has the running cotangent and the segment's carries but the first, which is the saved block.
    backward = groups * (
        2 * carry + every * carry + 2 * every * (2 * x + y) + 2 * sums + cost.vjp_temporaries
    )
    return 2 * consts + forward, 2 * consts + backward


def check_groups_per_step(problem: Problem, groups_per_step: int) -> None:
    """Raises ValueError unless the groups of a grid step divide all groups and go with all constants."""
    if not _divides(problem, groups_per_step, 1):
        raise ValueError(
            f"groups_per_step must divide G = {problem.groups} and be a divisor or a multiple of every "
            f"constant's Gc {sorted(set(problem.sharers))}, got {groups_per_step}"
        )


def _divides(problem: Problem, groups: int, cores: int) -> bool:
    steps, rest = divmod(problem.groups, groups)
    return (
        rest == 0
        and (groups == 1 or steps >= cores)
        and all(groups % s == 0 or s % groups == 0 for s in problem.sharers)
    )


def _padded(shapes: Shapes) -> int:
    """Bytes of 2-D leaves in VMEM tiles."""
    return sum(_tile_bytes(s.shape, s.dtype) for s in shapes)


def _bytes(shapes: Shapes) -> int:
    return sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes)


def _tile_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    *lead, rows, columns = (1, 1, *shape)
    itemsize = jnp.dtype(dtype).itemsize
    sublanes = 8 * max(1, 4 // itemsize)
    return math.prod(lead) * _round_up(rows, sublanes) * _round_up(columns, 128) * itemsize


def _value_bytes(aval: Any) -> int:
    return _tile_bytes(aval.shape, aval.dtype)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _flops(jaxpr: Jaxpr) -> int:
    """Multiplications and additions of all matmuls."""

    def matmul(eqn):
        (contracted, _), _ = eqn.params["dimension_numbers"]
        sizes = eqn.invars[0].aval.shape
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(sizes[d] for d in contracted)

    return sum(matmul(eqn) for eqn in equations(jaxpr) if eqn.primitive.name == "dot_general")


def _most_alive(jaxpr: Jaxpr) -> int:
    """Most bytes of computed values alive at once, when equations run in order."""
    last_use: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last_use.update((v, i) for v in eqn.invars if not isinstance(v, Literal))
    last_use.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if not isinstance(v, Literal))
    alive: dict[Any, int] = {}
    most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        alive.update((v, _value_bytes(v.aval)) for v in eqn.outvars)
        most = max(most, sum(alive.values()) + max(map(_most_alive, called(eqn)), default=0))
        for v in itertools.chain(eqn.invars, eqn.outvars):
            if not isinstance(v, Literal) and last_use.get(v, i) <= i:
                alive.pop(v, None)
    return most
