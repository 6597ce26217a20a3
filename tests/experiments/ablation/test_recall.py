"""The recall task and the ablation's cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.ablation.cases import COMPONENTS, make_cases
from experiments.ablation.recall import KINDS, VOCABULARY, Recall, RecallConfig
from titans_jax import preset
from titans_jax.matching import count_parameters

TASK = Recall(RecallConfig(pairs=3, train_lengths=(16, 32), batch_tokens=64, test_lengths=(40,)))


class Reader(nnx.Module):
    """Answers a key with what followed its first appearance."""

    def __call__(self, tokens):
        first = jnp.argmax(tokens[:, :, None] == tokens[:, None, :], axis=-1)
        following = jnp.take_along_axis(tokens, first + 1, axis=1)
        return 9.0 * jax.nn.one_hot(following, VOCABULARY), None


class Constant(nnx.Module):
    """Always says the same value."""

    def __call__(self, tokens):
        return 9.0 * jax.nn.one_hot(jnp.full_like(tokens, KINDS), VOCABULARY), None


def test_every_key_is_told_once_and_asked_once():
    batch = TASK.sequences(np.random.default_rng(0), 50, 20, once=True)
    for inputs, targets, counts in zip(*batch.values(), strict=True):
        told = dict(zip(inputs[:6:2], inputs[1:6:2], strict=True))
        assert len(told) == 3
        assert max(told) < KINDS <= min(told.values()) <= max(told.values()) < 2 * KINDS
        assert (inputs[6:14] >= 2 * KINDS).all()
        asked = np.flatnonzero(counts)
        assert asked.tolist() == [14, 16, 18]
        assert {inputs[i]: targets[i] for i in asked} == told
        np.testing.assert_array_equal(targets[:-1], inputs[1:])


def test_training_asks_for_some_keys_again_and_for_others_never():
    # A model that crosses out what was asked gains nothing (recall.py), and the last question is no exception.
    batch = TASK.sequences(np.random.default_rng(0), 200, 20, once=False)
    asked = batch["inputs"][:, 14::2]
    number = np.array([len(set(row)) for row in asked.tolist()])
    assert set(number) == {1, 2, 3}
    told = batch["inputs"][:, :6].reshape(-1, 3, 2)
    values = np.where(told[:, None, :, 0] == asked[..., None], told[:, None, :, 1], 0).sum(axis=-1)
    np.testing.assert_array_equal(batch["targets"][:, 14::2], values)
    repeated = [len(set(row)) for row in TASK.batch(0, 0)["inputs"][:, 10::2].tolist()]
    assert min(repeated) < 3


def test_batches_take_turns_in_length_and_are_the_same_again():
    assert [TASK.batch(i, 0)["inputs"].shape for i in range(3)] == [(4, 16), (2, 32), (4, 16)]
    np.testing.assert_array_equal(TASK.batch(1, 0)["inputs"], TASK.batch(1, 0)["inputs"])
    assert (TASK.batch(1, 0)["inputs"] != TASK.batch(1, 1)["inputs"]).any()


def test_training_begins_at_the_shortest_length():
    task = Recall(dataclasses.replace(TASK.config, bare_steps=3))
    assert [task.batch(i, 0)["inputs"].shape[1] for i in range(6)] == [16, 16, 16, 32, 16, 32]


def test_a_model_that_recalls_is_right_and_one_that_does_not_is_wrong():
    assert TASK.evaluate(Reader())["accuracy"]["40"] == 1
    assert TASK.evaluate(Constant())["accuracy"]["40"] < 0.25


def test_each_case_changes_one_thing_and_no_size():
    base = preset("tiny", "lmm")
    cases = make_cases(("base", *COMPONENTS, "mac"), (16, 64), base)
    assert set(COMPONENTS) <= set(cases)
    assert "chunk 64" not in cases  # the base's own
    assert cases["chunk 16"].memory.chunk == 16
    wanted = count_parameters(base)
    for name, model in cases.items():
        assert abs(count_parameters(model) - wanted) < 0.03 * wanted, name
        assert (model == base) == (name == "base")
    with pytest.raises(ValueError, match=r"config\.cases"):
        make_cases(("no memory",), (), base)


def test_a_sequence_too_short_for_its_pairs_is_refused():
    with pytest.raises(ValueError, match=r"recall\.train_lengths"):
        RecallConfig(pairs=10, train_lengths=(39,))
