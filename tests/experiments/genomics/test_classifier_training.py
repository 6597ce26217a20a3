"""Training of classifiers, with one that only counts letters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.genomics.classifier_training import Examples, FitConfig, fit, log_loss, predict
from tests.tolerances import OUTPUT_F64, assert_close
from titans_jax.data import NucleotideTokenizer
from titans_jax.models.classifier import masked_mean

TOKENIZER = NucleotideTokenizer()


class Counter(nnx.Module):
    """Logits linear in the letters' shares."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.zeros((7, 2)))

    def classify(self, tokens, *, mask=None):
        return masked_mean(jax.nn.one_hot(tokens, 7), mask) @ self.kernel[...]


def examples(count, seed, lengths=(20, 20)):
    """Class 1 has more A than class 0; on the other strand, more T."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    sizes = generator.integers(lengths[0], lengths[1] + 1, count).astype(np.int32)
    strands = np.full((count, 2, 20), 4, np.int8)
    for row, (label, size) in enumerate(zip(labels, sizes, strict=True)):
        share = [0.6, 0.2, 0.1, 0.1] if label else [0.1, 0.2, 0.1, 0.6]
        strands[row, 0, :size] = generator.choice(4, size, p=share)
        strands[row, 1, :size] = TOKENIZER.reverse_complement(strands[row, 0, :size])
    return Examples(strands, sizes, labels)


def test_predictions_are_the_mean_of_both_strands_without_padding():
    model = Counter()
    model.kernel[...] = jax.random.normal(jax.random.key(0), (7, 2))
    data = examples(70, 0, (5, 20))  # more than one batch, the last filled up
    shares = np.stack(
        [
            [np.bincount(strand[:size], minlength=7) / size for strand in strands]
            for strands, size in zip(data.strands, data.lengths, strict=True)
        ]
    )
    wanted = shares @ np.asarray(model.kernel[...])
    assert_close(predict(model, data, FitConfig()), wanted.mean(axis=1), OUTPUT_F64)
    one = predict(model, data, FitConfig(both_strands=False))
    assert_close(one, wanted[:, 0], OUTPUT_F64)


def test_one_strand_tells_apart_what_both_cannot():
    train, valid = examples(64, 1), examples(32, 2)
    losses = {}
    for both in (False, True):
        config = FitConfig(epochs=3, batch_size=8, weight_decay=0.0, both_strands=both)
        fitted = fit(Counter(), config, train, valid, learning_rate=0.3, seed=0)
        losses[both] = log_loss(fitted.valid, valid.labels)
        assert fitted.curve[fitted.best][1] == losses[both]
        assert_close(predict(fitted.model, valid, config), fitted.valid, OUTPUT_F64)
    assert losses[False] < 0.2
    assert losses[True] > 0.6


def test_the_epoch_with_the_least_validation_loss_is_kept():
    """Judged by a validation part whose labels are wrong, the first epoch is the least bad."""
    train, valid = examples(64, 1), examples(32, 2)
    config = FitConfig(epochs=3, batch_size=8, both_strands=False)
    wrong = valid._replace(labels=1 - valid.labels)
    fitted = fit(Counter(), config, train, wrong, learning_rate=0.1, seed=0)
    assert fitted.best == 0
    assert [loss for _, loss in fitted.curve] == sorted(loss for _, loss in fitted.curve)
    assert fitted.curve[0][0] > fitted.curve[2][0]
    with pytest.raises(
        FloatingPointError,
        match="training loss of epoch 1 is nan: lower learning_rate, which is nan",
    ):
        fit(Counter(), config, train, wrong, learning_rate=float("nan"), seed=0)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        FitConfig(batch_size=0)
