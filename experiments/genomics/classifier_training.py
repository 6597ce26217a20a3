"""Training a classifier of sequences: epochs (titans_jax/epochs.py) over sequences that never leave the device.

Each sequence is read on a strand drawn anew in every epoch; predictions are the mean of the logits of both strands. The
parameters that are kept are those of the epoch with the least log loss on validation. All models are trained alike:
AdamW, linear warm-up, cosine decay, clipped gradients. The learning rate is in the optimizer's state, so the runs of a
sweep share one program. `judge` says what a test part makes of it.
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
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, matthews_corrcoef

from experiments.training.config import OptimizerConfig
from experiments.training.optimizer import make_optimizer
from titans_jax import epochs
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
    optimizer_state[1].hyperparams["step_size"] = jnp.float32(learning_rate)

    def draw(index: int) -> tuple[np.ndarray, np.ndarray]:
        del index
        order = generator.permutation(count)[: steps * batch].reshape(steps, batch)
        return order, generator.integers(0, 2 if config.both_strands else 1, order.shape)

    def judge(state: epochs.State) -> tuple[float, tuple[float, np.ndarray]]:
        trained = nnx.merge(graph, state.parameters, state.other)
        logits = predict(trained, valid, config)
        error = log_loss(logits, valid.labels)
        return error, (error, logits)

    fitted = epochs.fit(
        parameters,
        other,
        optimizer_state,
        epoch,
        jax.tree.map(jnp.asarray, train),
        draw,
        judge,
        epochs=config.epochs,
        learning_rate=learning_rate,
    )
    curve = [(loss, said[0]) for loss, said in zip(fitted.losses, fitted.judged, strict=True)]
    trained = nnx.merge(graph, fitted.state.parameters, fitted.state.other)
    return Fitted(trained, fitted.judged[fitted.best][1], curve, fitted.best)


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
) -> tuple[epochs.Epoch, optax.GradientTransformation]:
    """One epoch as a compiled function; the learning rate is in the optimizer's state."""
    unit = make_optimizer(
        OptimizerConfig(learning_rate=1.0, weight_decay=config.weight_decay),
        steps * config.epochs,
    )
    # AdamW's update, decay included, is proportional to the rate.
    optimizer = optax.chain(unit, optax.inject_hyperparams(optax.scale)(step_size=1.0))

    def loss(parameters: PyTree, other: PyTree, data: Examples, drawn: Any) -> tuple[Array, PyTree]:
        rows, side = drawn
        tokens = data.strands[rows, side].astype(jnp.int32)
        mask = _mask(data.lengths[rows], length, full)
        model = nnx.merge(graph, parameters, other, copy=True)  # its batch statistics change
        logits = model.classify(tokens, mask=mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels[rows])
        return jnp.mean(losses), _parts(model)[2]

    return epochs.make_epoch(loss, optimizer), optimizer


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


BINS = 10


def judge(logits: Float[np.ndarray, "N classes"], labels: Int[np.ndarray, "N"]) -> dict[str, Any]:
    """All of a part's metrics, as JSON values.

    Args:
        logits: of the model.
        labels: the classes.

    Returns:
        "accuracy", "mcc", "log_loss"; "calibration": mean confidence and accuracy of each tenth of the sequences, by
        rising confidence in the predicted class; and "calibration_error", the mean distance of the two.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    right = (predicted == labels).astype(int)
    accuracy, confidence = calibration_curve(
        right, probabilities.max(axis=1), n_bins=BINS, strategy="quantile"
    )
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "mcc": float(matthews_corrcoef(labels, predicted)),
        "log_loss": log_loss(logits, labels),
        "calibration": [[float(c), float(a)] for c, a in zip(confidence, accuracy, strict=True)],
        "calibration_error": float(np.abs(confidence - accuracy).mean()),
    }
