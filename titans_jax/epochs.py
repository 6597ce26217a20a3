"""Epochs over data that never leave the device: compiled steps, and the parameters of the best epoch.

One epoch is one call of a compiled `lax.scan` over its batches. What a batch is made of, and what an epoch is judged
by, is the caller's: windows of a series (titans_jax.forecasting), or labelled sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from titans_jax.typing import Array, PyTree


class State(NamedTuple):
    """What an epoch changes.

    Attributes:
        parameters: that are trained.
        other: what else the model changes, such as statistics of batch norms; None for nothing.
        average: moving average of the parameters: what is judged and kept.
    """

    parameters: PyTree
    other: PyTree
    average: PyTree


#: (parameters, other, data, batch) to the loss and what `other` has become.
Loss = Callable[[PyTree, PyTree, PyTree, PyTree], tuple[Array, PyTree]]
#: (state, optimizer's state, data, batches stacked along axis 0) to the next of both and the mean loss.
Epoch = Callable[[State, PyTree, PyTree, PyTree], tuple[State, PyTree, Array]]


class Fitted(NamedTuple):
    """What training came to.

    Attributes:
        state: after the best epoch.
        best: its index.
        losses: mean training loss of every epoch.
        judged: what `judge` said after every epoch.
    """

    state: State
    best: int
    losses: list[float]
    judged: list[Any]


def make_epoch(loss: Loss, optimizer: optax.GradientTransformation, average: float = 0.0) -> Epoch:
    """One epoch as a compiled function; it takes the memory of the optimizer's state.

    Args:
        loss: of a batch.
        optimizer: what makes a step of the gradient.
        average: decay of the parameters' moving average per step; 0 for none.
    """

    @functools.partial(jax.jit, donate_argnums=(1,))
    def epoch(
        state: State, optimizer_state: PyTree, data: PyTree, batches: PyTree
    ) -> tuple[State, PyTree, Array]:
        def step(carry: Any, batch: PyTree) -> tuple[Any, Array]:
            (parameters, other, averaged), optimizer_state = carry
            graded = jax.value_and_grad(loss, has_aux=True)
            (value, other), gradients = graded(parameters, other, data, batch)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            averaged = optax.incremental_update(parameters, averaged, 1 - average)
            return (State(parameters, other, averaged), optimizer_state), value

        (state, optimizer_state), losses = jax.lax.scan(step, (state, optimizer_state), batches)
        return state, optimizer_state, jnp.mean(losses)

    return epoch


def fit(
    parameters: PyTree,
    other: PyTree,
    optimizer_state: PyTree,
    epoch: Epoch,
    data: PyTree,
    draw: Callable[[int], PyTree],
    judge: Callable[[State], tuple[float, Any] | None],
    *,
    epochs: int,
    learning_rate: float,
    patience: int | None = None,
    report: Callable[[int, float, Any, bool], None] | None = None,
) -> Fitted:
    """Trains epoch by epoch and keeps the best.

    Args:
        parameters: initial ones.
        other: see `State`.
        optimizer_state: initial one; its memory is used up.
        epoch: of `make_epoch`.
        data: what batches are made of.
        draw: the batches of an epoch by its index.
        judge: an error, less is better, and what is said of the epoch; None keeps the epoch, whatever came before.
        epochs: at most.
        learning_rate: for the error.
        patience: epochs without a better error before training stops; None for no such stop.
        report: is told after every epoch its index, mean training loss, what `judge` said of it (None for nothing),
            and whether it is the one to be kept so far.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    state = State(parameters, other, parameters)
    kept, best, least = state, 0, float("inf")
    losses, judged = [], []
    for index in range(epochs):
        state, optimizer_state, value = epoch(state, optimizer_state, data, draw(index))
        losses.append(float(value))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the training loss of epoch {index + 1} is {losses[-1]}: lower learning_rate, which is "
                f"{learning_rate:g}"
            )
        found = judge(state)
        if found is not None:
            judged.append(found[1])
        if found is None or found[0] <= least:
            kept, best = state, index
            least = least if found is None else found[0]
        if report is not None:
            report(index, losses[-1], None if found is None else found[1], best == index)
        if patience is not None and index - best >= patience:
            break
    return Fitted(kept, best, losses, judged)
