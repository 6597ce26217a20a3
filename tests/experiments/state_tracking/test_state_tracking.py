"""Word problems: the groups' laws, the batches, the judgement, and the command at toy size."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.comparison.page import number
from experiments.state_tracking.task import StateTracking, StateTrackingConfig
from experiments.state_tracking.word_problems import GROUPS, group
from tests.experiments.test_command_line import command

ORDERS = {"parity": 2, "z60": 60, "a5": 60, "s5": 120, "s5_swaps": 120}


@pytest.mark.parametrize("name", GROUPS)
def test_tables_are_groups(name):
    table = group(name).product
    order = ORDERS[name]
    numbers = np.arange(order)
    assert table.shape == (order, order)
    np.testing.assert_array_equal(table[0], numbers)  # 0 is the identity
    np.testing.assert_array_equal(table[:, 0], numbers)
    assert (np.sort(table, axis=1) == numbers).all()
    a, b, c = np.random.default_rng(0).integers(0, order, (3, 500))
    np.testing.assert_array_equal(table[table[a, b], c], table[a, table[b, c]])
    commutes = (table == table.T).all()
    assert commutes == (name in ("parity", "z60"))


def test_prefix_products_apply_permutations_one_after_the_other():
    elements = list(itertools.permutations(range(5)))
    words = np.random.default_rng(0).integers(0, 120, (3, 7))
    found = group("s5").prefix_products(words)
    for word, products in zip(words, found, strict=True):
        places = tuple(range(5))
        for letter, product in zip(word, products, strict=True):
            places = tuple(elements[letter][i] for i in places)
            assert elements[product] == places


def test_swaps_move_two_things_or_none():
    elements = list(itertools.permutations(range(5)))
    moved = [sum(i != x for i, x in enumerate(elements[n])) for n in group("s5_swaps").letters]
    assert sorted(moved) == [0] + [2] * 10


def test_batches_are_a_function_of_their_number():
    task = StateTracking("a5", StateTrackingConfig(batch_elements=64, stage_steps=2))
    batches = [task.batch(index, 0) for index in range(9)]
    shapes = [(16, 4), (16, 4), (8, 8), (8, 8), (4, 16), (4, 16), (2, 32), (2, 32), (2, 32)]
    assert [b["inputs"].shape for b in batches] == shapes
    np.testing.assert_array_equal(batches[2]["inputs"], task.batch(2, 0)["inputs"])
    assert (batches[0]["inputs"] != batches[1]["inputs"]).any()
    assert (batches[2]["inputs"] != task.batch(2, 1)["inputs"]).any()
    for batch in batches:
        np.testing.assert_array_equal(batch["targets"], task.group.prefix_products(batch["inputs"]))
        assert batch["loss_mask"].all()


def test_accuracy_by_length(monkeypatch):
    """A judge that is right at the first five places of every word."""
    task = StateTracking("parity", StateTrackingConfig(test_lengths=(4, 10), test_words=3))

    def judge(graphdef, params, batch):
        right = jnp.arange(batch["inputs"].shape[1]) < 5
        return 0.5, jnp.broadcast_to(right, batch["inputs"].shape)

    monkeypatch.setattr("experiments.state_tracking.task._judge", judge)
    monkeypatch.setattr("experiments.state_tracking.task.nnx.split", lambda model: (None, None))
    assert task.evaluate(None) == {
        "selection": 0.5,
        "element": {"4": 1.0, "10": 0.5},
        "word": {"4": 1.0, "10": 0.0},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shortest": 5}, r"shortest must be .*, got 5"),
        ({"batch_elements": 33}, r"batch_elements must be .*, got 33"),
        ({"test_lengths": (8, 4)}, r"test_lengths must be .*, got \(8, 4\)"),
        ({"test_words": 0}, r"test_words must be .*, got 0"),
        ({"stage_steps": 0}, r"stage_steps must be .*, got 0"),
    ],
)
def test_settings_that_cannot_work(change, message):
    with pytest.raises(ValueError, match=message):
        StateTrackingConfig(**change)


@pytest.mark.slow
def test_the_command_at_toy_size(tmp_path):
    arguments = [
        f"--workdir={tmp_path}",
        "--config.groups=('parity',)",
        "--config.models=('lmm',)",
        "--config.model.dim=8",
        "--config.model.num_heads=1",
        "--config.model.memory.num_heads=1",
        "--config.model.feed_forward=16",
        "--config.task.batch_elements=16",
        "--config.task.train_length=8",
        "--config.task.shortest=8",
        "--config.task.test_lengths=(8, 16)",
        "--config.study.steps=2",
        "--config.study.learning_rates=(0.01,)",
    ]
    result = command("experiments.state_tracking.run", *arguments)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    model = results["groups"]["parity"]["models"]["lmm"]
    assert model["seeds"] == [0, 1]
    assert set(model["results"][0]["element"]) == {"8", "16"}
    page = (tmp_path / "results.md").read_text()
    assert "python -m experiments.state_tracking.run '--config.groups=" in page
    assert str(tmp_path) not in page
    mean, _ = number(model, ("element", "8"))
    assert f"| LMM | {100 * mean:.1f} ± " in page
    assert (tmp_path / "results.png").stat().st_size > 5000
