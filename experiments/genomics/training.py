"""Training a classifier of sequences: epochs of compiled steps over sequences that never leave the device.

Each sequence is read on a strand drawn anew in every epoch; predictions are the mean of the logits of both strands. The
parameters that are kept are those of the epoch with the least log loss on validation. All models are trained alike:
AdamW, linear warm-up, cosine decay, clipped gradients. The learning rate is an argument of the compiled epoch, so the
runs of a sweep share one program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from titans_jax.fields import check_fields, field, flag, non_negative, positive_int
from titans_jax.typing import Array, Bool, Float, Int, PyTree

EVALUATION_BATCH = 64


class Classifier(Protocol):
    """What is trained here: an NNX module that can classify."""

    def classify(
        self, tokens: Int[Array, "B T"], *, mask: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B classes"]:
        """The logits of the classes."""
        ...


class Examples(NamedTuple):
    """Sequences of one part.

    Attributes:
        strands: each sequence and its reverse complement, filled with N behind.
        lengths: of the sequences.
        labels: their classes.
    """

    strands: Int[np.ndarray, "N 2 T"]
    lengths: Int[np.ndarray, "N"]
    labels: Int[np.ndarray, "N"]


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How every model is trained.

    Attributes:
        epochs: passes over the training part.
        batch_size: sequences per step.
        weight_decay: decoupled, on matrices only.
        both_strands: whether training reads a sequence on a strand drawn at random, and prediction on both.
    """

    epochs: int = field(4, positive_int)
    batch_size: int = field(32, positive_int)
    weight_decay: float = field(0.1, non_negative)
    both_strands: bool = field(True, flag)

    def __post_init__(self) -> None:
        check_fields(self)


class Fitted(NamedTuple):
    """What training came to.

    Attributes:
        model: with the parameters of the best epoch.
        valid: its logits on validation.
        curve: after every epoch, the mean loss of training and the log loss on validation.
        best: index of the best epoch.
    """

    model: Any
    valid: Float[np.ndarray, "N classes"]
    curve: list[tuple[float, float]]
    best: int


def fit(
    model: Classifier,
    config: FitConfig,
    train: Examples,
    valid: Examples,
    *,
    learning_rate: float,
    seed: int,
) -> Fitted:
    """Trains a classifier.

    Args:
        model: with its initial parameters.
        config: how.
        train: what it learns from.
        valid: what chooses the epoch.
        learning_rate: the peak.
        seed: of the order of the sequences and of their strands.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    generator = np.random.default_rng(seed)
    count = len(train.labels)
    batch = min(config.batch_size, count)
    steps = count // batch
    model.train()  # type: ignore[attr-defined]
    graph, state, other = _parts(model)
    parameters = nnx.to_pure_dict(state)
    epoch, optimizer = _compiled_epoch(
        graph, config, steps, train.strands.shape[2], _is_full(train)
    )
    optimizer_state = optimizer.init(parameters)
    data = jax.tree.map(jnp.asarray, train)
    curve: list[tuple[float, float]] = []
    best, kept, kept_logits = 0, model, np.zeros((0, 0))
    for index in range(config.epochs):
        order = generator.permutation(count)[: steps * batch].reshape(steps, batch)
        strand = generator.integers(0, 2 if config.both_strands else 1, order.shape)
        parameters, other, optimizer_state, loss = epoch(
            parameters, other, optimizer_state, data, order, strand, jnp.float32(learning_rate)
        )
        if not np.isfinite(float(loss)):
            raise FloatingPointError(
                f"the training loss of epoch {index + 1} is {float(loss)} at learning rate {learning_rate:g}"
            )
        trained = nnx.merge(graph, parameters, other)
        logits = predict(trained, valid, config)
        error = log_loss(logits, valid.labels)
        curve.append((float(loss), error))
        if error <= min(valid_loss for _, valid_loss in curve):
            best, kept, kept_logits = index, trained, logits
    return Fitted(kept, kept_logits, curve, best)


def predict(model: Any, examples: Examples, config: FitConfig) -> np.ndarray:
    """The logits of a part [N classes], in float64: the mean of both strands', where training saw both.

    Args:
        model: a classifier.
        examples: what to classify; labels are not read.
        config: of its training.
    """
    model.eval()
    graph, parameters, other = _parts(model)
    model.train()
    count, size = len(examples.labels), min(EVALUATION_BATCH, len(examples.labels))
    rows = np.resize(np.arange(count), -(-count // size) * size).reshape(-1, size)
    strands = 2 if config.both_strands else 1
    logits = _compiled_prediction(graph, strands, _is_full(examples))(
        parameters, other, jax.tree.map(jnp.asarray, examples), rows
    )
    return np.asarray(logits, np.float64).reshape(rows.size, -1)[:count]


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log probability of the labels, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def _parts(model: Any) -> tuple[Any, Any, Any]:
    """The static part, the parameters, and all else: statistics of batch norms."""
    graph, parameters, *other = nnx.split(model, nnx.Param, ...)
    return graph, parameters, other[0]


def _is_full(examples: Examples) -> bool:
    """Whether no sequence is shorter than the longest."""
    return bool((examples.lengths == examples.strands.shape[2]).all())


def _mask(lengths: Array, length: int, full: bool) -> Array | None:
    """False where a token is padding; None where there is none, which spares the models work."""
    return None if full else jnp.arange(length) < lengths[:, None]


@functools.lru_cache(maxsize=4)
def _compiled_epoch(
    graph: Any, config: FitConfig, steps: int, length: int, full: bool
) -> tuple[Any, optax.GradientTransformation]:
    """One epoch as a compiled function of the learning rate, among other things."""
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1.0, weight_decay=config.weight_decay),
        steps * config.epochs,
    )

    @functools.partial(jax.jit, donate_argnums=(2,))
    def epoch(
        parameters: PyTree,
        other: PyTree,
        optimizer_state: PyTree,
        data: Examples,
        order: Array,
        strand: Array,
        rate: Array,
    ) -> tuple[PyTree, PyTree, PyTree, Array]:
        def step(carry: Any, drawn: tuple[Array, Array]) -> tuple[Any, Array]:
            parameters, other, optimizer_state = carry
            rows, side = drawn
            tokens = data.strands[rows, side].astype(jnp.int32)
            mask = _mask(data.lengths[rows], length, full)

            def loss(parameters: PyTree) -> tuple[Array, PyTree]:
                model = nnx.merge(
                    graph, parameters, other, copy=True
                )  # its batch statistics change
                logits = model.classify(tokens, mask=mask)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels[rows])
                return jnp.mean(losses), _parts(model)[2]

            (value, other), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
            # AdamW's update, decay included, is proportional to the rate.
            updates = jax.tree.map(lambda update: rate * update, updates)
            return (optax.apply_updates(parameters, updates), other, optimizer_state), value

        carry, losses = jax.lax.scan(step, (parameters, other, optimizer_state), (order, strand))
        return *carry, jnp.mean(losses)

    return epoch, optimizer


@functools.lru_cache(maxsize=4)
def _compiled_prediction(graph: Any, strands: int, full: bool) -> Any:
    @jax.jit
    def logits(parameters: PyTree, other: PyTree, data: Examples, rows: Array) -> Array:
        def one(_: None, picked: Array) -> tuple[None, Array]:
            tokens = data.strands[picked, :strands].astype(jnp.int32)
            flat = tokens.reshape(-1, tokens.shape[-1])
            lengths = jnp.repeat(data.lengths[picked], strands)
            mask = _mask(lengths, flat.shape[1], full)
            found = nnx.merge(graph, parameters, other).classify(flat, mask=mask)
            return None, found.reshape(picked.shape[0], strands, -1).mean(axis=1)

        return jax.lax.scan(one, None, rows)[1]

    return logits
