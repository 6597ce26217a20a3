"""Steps that must not change the model: a loss or a gradient that is not finite, or a loss far above recent ones.

On the device such a step leaves parameters and optimizer state as they are, without the host being asked. What the host
sees a step later decides: it stops the run, or counts the step as skipped. Either way the ids of the offending batch
are written down, and no checkpoint holds what the batch would have done.
"""

import collections
import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Bool, Float, Int, PyTree

from experiments.training.groups import GROUPS
from experiments.training.processes import say

#: The mean loss is over about so many steps, and says nothing before it has seen the fewest.
_MEMORY, _FEWEST = 100, 20
#: With so many bad steps one after another, skipping them leads nowhere.
MOST_SKIPPED = 20
#: Metrics are one step late, so the batch of the step before is still needed.
_KEPT_BATCHES = 3


class BadStepError(FloatingPointError):
    """A step went wrong, and the run is to stop at it."""


class GuardState(NamedTuple):
    """State of a guarded optimizer."""

    inner: PyTree  # the optimizer's own
    mean_loss: Float[Array, ""]  # of recent steps that were taken
    taken: Int[Array, ""]  # their number
    bad: Bool[Array, ""]  # whether the last step was not


def guarded(
    optimizer: optax.GradientTransformation, spike_factor: float
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that does nothing at a bad step; its own state, the step count included, stays too.

    `update` takes the step's `loss` and `grad_norm` beside what every optimizer takes.

    Args:
      optimizer: any.
      spike_factor: see TrainConfig.
    """

    def init(params: PyTree) -> GuardState:
        zero = jnp.zeros((), jnp.float32)
        return GuardState(optimizer.init(params), zero, jnp.zeros((), jnp.int32), jnp.array(False))

    def update(
        grads: PyTree,
        state: GuardState,
        params: PyTree | None = None,
        *,
        loss: Array,
        grad_norm: Array,
        **_: Any,
    ) -> tuple[PyTree, GuardState]:
        loss = loss.astype(jnp.float32)
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        if spike_factor:
            bad |= (state.taken >= _FEWEST) & (loss > spike_factor * state.mean_loss)
        updates, inner = optimizer.update(grads, state.inner, params)

        def unless_bad(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(bad, o, n), new, old)

        # The plain mean until there are enough, then an exponential one.
        share = 1 / jnp.minimum(state.taken + 1, _MEMORY).astype(jnp.float32)
        mean = state.mean_loss + share * (loss - state.mean_loss)
        updates = jax.tree.map(lambda u: jnp.where(bad, jnp.zeros_like(u), u), updates)
        inner, mean, taken = unless_bad(
            (inner, mean, state.taken + 1), (state.inner, state.mean_loss, state.taken)
        )
        return updates, GuardState(inner, mean, taken, bad)

    return optax.GradientTransformationExtraArgs(init, update)


class BadSteps:
    """What the host does about bad steps."""

    def __init__(self, folder: epath.PathLike, name: str, *, skip: bool):
        """Nothing has happened yet.

        Args:
          folder: gets bad_batch_STEP.npz; of several processes each writes its share, bad_batch_STEP_PROCESS.npz.
          name: of the model.
          skip: go on after a bad step instead of stopping.
        """
        self._folder, self._name, self._skip = epath.Path(folder), name, skip
        self._batches: collections.deque[tuple[int, Mapping[str, np.ndarray]]] = collections.deque(
            maxlen=_KEPT_BATCHES
        )
        self._row = 0  # bad steps without a good one between them

    def keep(self, step: int, batch: Mapping[str, np.ndarray]) -> None:
        """Remembers a step's batch, this process' share, until its metrics are known."""
        self._batches.append((step, batch))

    def check(self, step: int, metrics: Any) -> None:
        """Does what is to be done about a step.

        Args:
          step: one of the last that were kept.
          metrics: the step's StepMetrics, on the host.

        Raises:
          BadStepError: it was bad, and the run is to stop: at the first, or at the last of very many.
        """
        if not metrics.bad:
            self._row = 0
            return
        self._row += 1
        path = self._write(step)
        norms = ", ".join(
            f"{group} {norm:.3g}" for group, norm in zip(GROUPS, metrics.grad_norms, strict=True)
        )
        finite = math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)
        what = (
            f"a spike over the recent mean of {metrics.mean_loss:.4f}" if finite else "not finite"
        )
        message = (
            f"{self._name} step {step}: loss {metrics.loss:.4f}, gradient norm {metrics.grad_norm:.3g}: {what} "
            f"(norms: {norms}). Its batch is in {path}"
        )
        if not self._skip:
            raise BadStepError(
                f"{message}. No checkpoint holds the step. Lower config.optimizer.learning_rate or "
                "config.optimizer.clip_norm, look at the batch, or set config.on_bad_step=skip"
            )
        say(f"{message}. The step is skipped")
        if self._row == MOST_SKIPPED:
            raise BadStepError(
                f"{message}. The last {MOST_SKIPPED} steps were all skipped; the model or the data has left the "
                "region where training works. Lower config.optimizer.learning_rate, or raise config.spike_factor"
            )

    def _write(self, step: int) -> epath.Path:
        batch = dict(self._batches)[step]
        suffix = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._folder / f"bad_batch_{step}{suffix}.npz"
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **batch)
        path.write_bytes(content.getvalue())
        return path
