"""Which execution runs a problem, and with what segments.

With no implementation named it is decided when the computation is lowered, by
``jax.lax.platform_dependent`` inside the custom VJP, and not by the default backend: a computation
lowered ahead of time on a CPU host for a TPU gets the TPU's kernel. A GPU's kernel runs where it is named
only (triton_gpu.py says why). All executions save the same residuals, so that nothing is saved twice.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.fused_scan import blocking, mosaic_tpu, triton_gpu, xla
from pallas_kernels.fused_scan.blocking import Cut
from pallas_kernels.fused_scan.vjp import (
    Execution,
    Leaves,
    Problem,
    UnsupportedError,
    fold_vmap,
)

logger = logging.getLogger(__name__)

Implementation = Literal["xla", "mosaic_tpu", "triton"]
Interpret = bool | pltpu.InterpretParams

BY_XLA = Execution(xla.forward, xla.backward)


def plan(
    implementation: Implementation | None,
    problem: Problem,
    checkpoint_every: int | None,
    groups_per_step: int | None,
    interpret: Interpret,
) -> tuple[Problem, Execution]:
    """The problem with its segments chosen, and what runs it.

    Args:
        implementation: see `fused_scan`, as are the other options.
        problem: with any ``checkpoint_every``.
        checkpoint_every: None to choose.
        groups_per_step: None to choose.
        interpret: for the named kernel.

    Raises:
        UnsupportedError: the named kernel cannot run the problem.
    """
    if checkpoint_every is not None:
        choices = [min(checkpoint_every, problem.chunks)]
        if implementation == "xla":
            return dataclasses.replace(problem, checkpoint_every=choices[0]), BY_XLA
    chip, is_tpu = blocking.target_chip(by_name=implementation == "mosaic_tpu")
    cost = blocking.step_cost(problem)
    if checkpoint_every is None:
        choices = blocking.checkpoint_choices(problem, cost, chip)
    problems = [dataclasses.replace(problem, checkpoint_every=every) for every in choices]
    cut = functools.partial(blocking.cut, cost=cost, chip=chip, groups_per_step=groups_per_step)
    fits = functools.partial(blocking.check, cut=cut)
    if implementation == "xla":
        return problems[0], BY_XLA
    if implementation == "mosaic_tpu":
        return _supported(problems, fits)[0], _by_mosaic(cut, interpret)
    if implementation == "triton":
        return _for_triton(problems)[0], _by_triton(bool(interpret))

    # One choice of segments for all platforms, since they share what is saved.
    try:
        problems = _supported(problems, fits)
    except UnsupportedError as error:
        # Loudly where a TPU is the target.
        level = logging.WARNING if is_tpu else logging.INFO
        logger.log(level, "XLA runs instead: %s", error)
        return problems[0], BY_XLA
    return problems[0], _by_platform(BY_XLA, tpu=_by_mosaic(cut, False))


def _supported(problems: list[Problem], check: Callable[[Problem], Any]) -> list[Problem]:
    """The problems that pass the check, at least one; raises the last error where none does."""
    passing = []
    for problem in problems:
        try:
            check(problem)
        except UnsupportedError as error:
            refusal = error
        else:
            passing.append(problem)
    if not passing:
        raise refusal
    return passing


def _for_triton(problems: list[Problem]) -> list[Problem]:
    triton_gpu.check_step(problems[0])
    return _supported(problems, triton_gpu.check_carry)


def _by_mosaic(cut: Cut, interpret: Interpret) -> Execution:
    if interpret is True:
        interpret = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
    return fold_vmap(
        Execution(
            functools.partial(mosaic_tpu.forward, cut=cut, interpret=interpret),
            functools.partial(mosaic_tpu.backward, cut=cut, interpret=interpret),
        )
    )


def _by_triton(interpret: bool) -> Execution:
    return fold_vmap(
        Execution(
            functools.partial(triton_gpu.forward, interpret=interpret),
            functools.partial(triton_gpu.backward, interpret=interpret),
        )
    )


def _by_platform(default: Execution, tpu: Execution) -> Execution:
    """Chooses when lowering, by the platform."""

    def choose(direction: str) -> Callable[..., tuple[Leaves, Leaves, Leaves]]:
        def run(problem: Problem, *arrays: Leaves, **options: bool) -> Any:
            branches = {
                platform: functools.partial(getattr(execution, direction), problem, **options)
                for platform, execution in {"default": default, "tpu": tpu}.items()
            }
            return jax.lax.platform_dependent(*arrays, **branches)

        return run

    return Execution(choose("forward"), choose("backward"))
