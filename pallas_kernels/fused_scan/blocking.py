"""How a fused scan is cut for a TPU, from shapes alone: groups per grid step, chunks per segment, VMEM.

The VMEM budget, per group of a grid step:

* every 2-D leaf is padded to tiles of 8 sublanes (32-bit; 16 sublanes for 16-bit) and 128 lanes;
* blocks count twice, because the pipeline double-buffers them; scratch counts once;
* a carry that is saved in another dtype counts once more, for the one that backward widens;
* the step's temporaries count as the most bytes alive at once in its jaxpr, backward in its VJP's, and the step's
  again for every chunk that a segment recomputes, because the compiler gives each its own space: more than
  it allocates for them, so the budget errs to the safe side.

Forward and backward are cut each for itself, as far as `GROUPS_PER_STEP` and the budget allow.

The cost model behind the default of ``checkpoint_every``. A chunk takes the longer of its matmuls,
at `UTILISATION` of the peak, and its HBM traffic (F, R, B: flops of the step, of as much of it as the next
carry needs, and of its VJP; x, y, s: bytes of a chunk's inputs, its outputs and the saved carry; e:
checkpoint_every):

    forward    max(F, (x + y + s / e) / bandwidth)
    backward   max(B + R (e - 1) / e, (2 x + y + s / e) / bandwidth)

The choice is among the powers of two up to `MOST_UNROLLED` that fit VMEM and save at most
`SAVED_BYTES_PER_TOKEN`, a token being a row of the largest streamed leaf; where none saves so little,
the one that saves least. Of those, the least sum wins, but one at which forward's traffic takes at most
`HBM_SHARE` of its matmuls' time goes first where its sum is within `HBM_PREMIUM` of the least: a forward pass
at the HBM's limit waits whenever anything else uses the HBM. The first and the last carry, which move once a
sequence, are not in the model. `python -m experiments.kernel_report
--checkpoint_curve` shows what each costs.
"""

import dataclasses
import itertools
import math
from typing import Any, Protocol
from typing import Literal as TypingLiteral

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from pallas_kernels.chips import CHIPS, MIB, Chip
from pallas_kernels.fused_scan.jaxprs import called, equations, without_custom_rules
from pallas_kernels.fused_scan.vjp import Problem, Shapes, UnsupportedError

Direction = TypingLiteral["forward", "backward"]

#: Share of the matrix units' peak that a step's matmuls reach: the presets' memory 0.6 on v6e, and more on v5e and v5p,
#: in static schedules (`python -m experiments.kernel_report --preset=400m`).
UTILISATION = 0.6
#: Share of its matmuls' time that forward's HBM traffic may take, and by what factor the sum may grow for it.
HBM_SHARE, HBM_PREMIUM = 0.6, 1.1
#: Budget of carries saved for backward, per group: a deep memory of 256 features at chunks of 256 stays within.
SAVED_BYTES_PER_TOKEN = 8 * 2**10
#: A segment's chunks are unrolled in the kernel, so that compile time grows with them.
MOST_UNROLLED = 8
#: Groups of one grid step by default, where they fit. Forward two fill each other's latency; backward, whose chunks are
#: long enough to fill it alone, they would only double its VMEM.
GROUPS_PER_STEP: dict[Direction, int] = {"forward": 2, "backward": 1}
#: What XLA grants a kernel by default; a larger limit takes VMEM from the computations around it.
DEFAULT_VMEM_LIMIT = 16 * MIB
#: Left to the compiler: semaphores and its own scratch.
VMEM_RESERVE = MIB
#: What is assumed where nothing names the chip: what fits every TPU by default, and for a kernel asked for by name
#: what fits any.
SMALLEST = min(CHIPS.values(), key=lambda chip: chip.vmem)
LARGEST = max(CHIPS.values(), key=lambda chip: chip.vmem)


@dataclasses.dataclass(frozen=True)
class Blocking:
    """How one kernel is cut.

    Attributes:
        groups_per_step: groups of one grid step.
        vmem_limit_bytes: VMEM that the kernel may use.
    """

    groups_per_step: int
    vmem_limit_bytes: int


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Matmul flops, and most bytes of temporaries at once, of one run of a step and of its VJP.

    Attributes:
        flops: of the step.
        carry_flops: of what its next carry needs.
        vjp_flops: of its VJP.
        temporaries, vjp_temporaries: bytes of the step and of its VJP.
    """

    flops: int
    carry_flops: int
    vjp_flops: int
    temporaries: int
    vjp_temporaries: int


class Cut(Protocol):
    """The blocking of a problem; raises `UnsupportedError`."""

    def __call__(self, problem: Problem, direction: Direction) -> Blocking:
        """See `cut`."""


def target_chip(by_name: bool) -> tuple[Chip, bool]:
    """The chip that is compiled for, and whether anything names it.

    It is the device of the mesh in context where there is one, else this process's. So to compile for
    a TPU that is absent, lower under ``jax.set_mesh`` with the devices of its topology description;
    otherwise the chip with the least VMEM is assumed.

    Args:
        by_name: whether the TPU's kernel was asked for; then the chip with the most VMEM is assumed,
            for which it is refused only if it fits no TPU.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    for chip in CHIPS.values():
        if device.device_kind in chip.kinds:
            return dataclasses.replace(chip, device_cores=device.num_cores), True
    return (LARGEST if by_name else SMALLEST), False


def step_cost(problem: Problem) -> StepCost:
    """Counts a step's matmuls and temporaries in its jaxpr."""
    primals = (problem.consts, problem.carry, problem.x)
    step = jax.make_jaxpr(problem.step)(*primals).jaxpr
    vjp = jax.make_jaxpr(problem.step_vjp)(*primals, problem.carry, problem.y).jaxpr
    carry_only = jax.make_jaxpr(without_custom_rules(lambda *args: problem.step(*args)[0]))
    return StepCost(
        flops=_flops(step),
        carry_flops=_flops(_needed(carry_only(*primals).jaxpr)),
        vjp_flops=_flops(vjp),
        temporaries=_most_alive(step),
        vjp_temporaries=_most_alive(vjp),
    )


def checkpoint_choices(problem: Problem, cost: StepCost, chip: Chip) -> list[int]:
    """Values of ``checkpoint_every`` from the best to the worst by the module docstring's model."""
    x, y, saved = (_bytes(s) for s in (problem.x, problem.y, problem.saved))
    tokens = max(problem.x, key=lambda s: math.prod(s.shape)).shape[0]
    budget = SAVED_BYTES_PER_TOKEN * tokens
    rate = UTILISATION * chip.core_peak

    def hbm_time(every):
        return (x + y + saved / every) / chip.core_hbm

    def time(every):
        forward = max(cost.flops / rate, hbm_time(every))
        flops = cost.vjp_flops + cost.carry_flops * (every - 1) / every
        backward = max(flops / rate, x / chip.core_hbm + hbm_time(every))
        return forward + backward

    choices = [2**i for i in range(MOST_UNROLLED.bit_length()) if 2**i <= problem.chunks]
    least = min(map(time, choices))

    def rank(every):
        bound_by_hbm = hbm_time(every) > HBM_SHARE * cost.flops / rate
        premium = time(every) > HBM_PREMIUM * least
        return max(saved / every, budget), bound_by_hbm or premium, time(every)

    return sorted(choices, key=rank)


def cut(
    problem: Problem,
    direction: Direction,
    *,
    cost: StepCost,
    chip: Chip,
    groups_per_step: int | None,
) -> Blocking:
    """Groups per grid step and the VMEM limit of one kernel.

    Args:
        problem: what to run.
        direction: which kernel.
        cost: of the problem's step.
        chip: what to run it on.
        groups_per_step: None for as many of `GROUPS_PER_STEP` as fit and leave every core a share.

    Raises:
        UnsupportedError: not even one group fits, or not as many as asked for.
    """
    if groups_per_step is None:
        most = range(GROUPS_PER_STEP[direction], 0, -1)
        candidates = [p for p in most if _divides(problem, p, chip.device_cores)]
    else:
        candidates = [groups_per_step]
    available = chip.vmem - VMEM_RESERVE
    for groups in candidates:
        needed = vmem_bytes(problem, cost, groups, direction)
        if needed <= available:
            return Blocking(groups, max(needed, min(chip.vmem, DEFAULT_VMEM_LIMIT)))
    smaller_groups = "lower groups_per_step, " if groups > 1 else ""
    smaller_segments = "lower checkpoint_every, " if problem.checkpoint_every > 1 else ""
    raise UnsupportedError(
        f"fused_scan's {direction} kernel needs {needed} bytes of VMEM (groups_per_step={groups}, "
        f"checkpoint_every={problem.checkpoint_every}), and {chip.name} has {available}: "
        f"{smaller_groups}{smaller_segments}make the carry ({_padded(problem.carry)} bytes in VMEM) or the chunk "
        f"({_padded(problem.x)} bytes of xs) smaller, or use implementation='xla'. To compile for "
        "another TPU than this process's, lower under jax.set_mesh with its devices"
    )


def check(problem: Problem, cut: Cut) -> None:
    """Raises UnsupportedError unless both kernels fit.

    Args:
        problem: what to run.
        cut: for a chip.
    """
    cut(problem, "forward")
    cut(problem, "backward")


def vmem_bytes(problem: Problem, cost: StepCost, groups: int, direction: Direction) -> int:
    """VMEM of a kernel by the module docstring's budget."""
    every = problem.checkpoint_every
    carry, saved, x, y = (_padded(s) for s in (problem.carry, problem.saved, problem.x, problem.y))
    consts = sum(
        min(groups, sharers) * _padded((shape,))
        for shape, sharers in zip(problem.consts, problem.sharers, strict=True)
    )
    # Blocks: the saved carry and what streams. Scratch: the running carry; backward its cotangent and the carries
    # of a segment but the first. The first and last carries and their cotangents stay in HBM.
    if direction == "forward":
        return 2 * consts + groups * (2 * (saved + x + y) + carry + cost.temporaries)
    blocks = 2 * (saved + every * (2 * x + y) + _padded(problem.d_consts))
    widened = 0 if problem.saved == problem.carry else carry
    temporaries = cost.vjp_temporaries + (every - 1) * cost.temporaries
    return 2 * consts + groups * (blocks + every * carry + widened + temporaries)


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


def _needed(jaxpr: Jaxpr) -> Jaxpr:
    """Without the equations on which no result depends."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if wanted.intersection(eqn.outvars):
            found.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, Literal))
    return jaxpr.replace(eqns=found[::-1])


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
