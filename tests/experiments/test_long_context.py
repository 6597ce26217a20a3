"""The long-context experiment on a model and a text that take seconds."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.long_context import report
from experiments.long_context.streaming import octaves, stream_text, time_ratio
from experiments.long_context.training import MEAN_WINDOWS, make_config, windows
from tests.tolerances import OUTPUT_F32
from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.inference import score

TOKENS, BLOCK = 4096, 256


@functools.cache
def model():
    config = TitansConfig(
        variant="lmm",
        dim=8,
        num_layers=1,
        feed_forward=0,
        memory=MemoryConfig(num_heads=1, chunk=64),
    )
    return Titans(config, rngs=nnx.Rngs(0))


@functools.cache
def text():
    return np.random.default_rng(0).integers(0, 256, TOKENS).astype(np.int32)


@functools.cache
def rows(mode):
    options = {"block": BLOCK, "reset_every": 512, "freeze_from": 1024}
    return stream_text(model(), text(), mode=mode, **options)[0]


def test_octaves_are_powers_of_two():
    assert octaves(4096) == [1024, 2048, 4096]


def test_losses_per_octave_are_those_of_reading():
    (losses,), _ = score(model(), text())
    found = [row["nats"] for row in rows("learning")]
    expected = [losses[512:1024].mean(), losses[1024:2048].mean(), losses[2048:].mean()]
    np.testing.assert_allclose(found, expected, rtol=OUTPUT_F32)
    assert all(row["microseconds"] > 0 and row["resident_mib"] > 0 for row in rows("learning"))


def test_modes_differ_from_where_they_begin():
    learning, frozen, late, reset = (
        [row["nats"] for row in rows(mode)]
        for mode in ("learning", "frozen", "frozen late", "reset")
    )
    assert frozen[0] != learning[0]
    assert late[0] == learning[0]
    assert late[1] != learning[1]
    assert reset[0] != learning[0]


def test_a_kept_stream_goes_on_where_it_was_copied():
    found, kept = stream_text(model(), text(), mode="learning", block=BLOCK, keep=(1024, TOKENS))
    (losses,), _ = score(model(), text()[1024:2048], jax.tree.map(jnp.copy, kept[1024]))
    np.testing.assert_allclose(losses.mean(), found[1]["nats"], rtol=OUTPUT_F32)
    assert kept[TOKENS].length == TOKENS
    assert 0.2 < time_ratio(model(), text(), kept[1024], kept[TOKENS], BLOCK) < 5


def test_the_report_says_what_was_measured(tmp_path):
    table = [
        {"variant": variant, "mode": mode, **row}
        for variant in ("lmm", "mac", "mag", "mal")
        for mode in ("learning", "frozen", "frozen late", "reset")
        for row in rows(mode)
    ]
    result = {
        "command": "stream", "machine": "a machine", "versions": {"jax": jax.__version__},
        "tokens": TOKENS, "block": BLOCK, "reset_every": 512, "seeds": [0], "seconds": 1.0,
        "train_steps": {"lmm": 3}, "rows": table, "time_ratios": {"lmm": 1.01},
        "time_ratio": 1.01, "memory_ratio": report.memory_ratio(table, TOKENS),
    }  # fmt: skip
    assert result["memory_ratio"] == 1.0  # a stream of less than 64K tokens is its own reference
    assert json.loads(json.dumps(result)) == result
    written = report.markdown(result)
    assert "| 4,096 | " in written
    assert f"{table[2]['nats'] / np.log(2):.3f}" in written
    report.plot(result, tmp_path / "stream.png")
    assert (tmp_path / "stream.png").stat().st_size > 10_000


def test_lanes_go_through_the_text_until_they_start_anew():
    ids = np.arange(100_000)
    before, starts = None, 0
    for batch in itertools.islice(windows(ids, lanes=2, length=16, seed=0), 2000):
        np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
        if before is None:
            assert batch["new"].all()
        else:
            goes_on = batch["inputs"][:, 0] == before["targets"][:, -1]
            assert (goes_on | batch["new"]).all()
            starts += batch["new"].sum()
        before = batch
    assert 0.7 < starts * MEAN_WINDOWS / 4000 < 1.3


@pytest.mark.slow
def test_training_carries_the_memory_and_learns():
    from experiments.long_context.training import train

    config = make_config("lmm", "stdlib", 40)
    small = {"dim": 16, "num_layers": 1, "feed_forward": 0}
    config = dataclasses.replace(
        config,
        cpu_devices=1,
        model=dataclasses.replace(config.model, **small),
        data=dataclasses.replace(config.data, sequence_length=64),
    )
    ids = np.frombuffer(b"the memory writes what surprises it. " * 400, np.uint8).astype(np.int32)
    _, losses = train(config, ids)
    assert np.mean(losses[-5:]) < 0.9 * losses[0]


def test_only_what_varies_with_the_token_counts_as_its_matmuls():
    from experiments.efficiency.decode import token_matmuls

    shapes = [tuple(v.aval.shape for v in eqn.invars) for eqn in token_matmuls(model())]
    # Query, key, value, output gate and output of 8 features, and the logits.
    assert shapes.count(((1, 8), (8, 8))) == 5
    assert ((1, 1, 8), (8, 256)) in shapes
    # MAC's persistent tokens have keys and values that do not vary.
    config = dataclasses.replace(model().config, variant="mac", num_heads=1, persistent_tokens=3)
    dots = token_matmuls(Titans(config, rngs=nnx.Rngs(0)))
    assert (3, 8) not in [eqn.invars[0].aval.shape for eqn in dots]


def test_crossings_are_where_the_lines_meet():
    rows = [
        {"length": 1024, "lmm": 2.0, "mag": 4.0, "transformer": 1.0},
        {"length": 4096, "lmm": 2.0, "mag": 4.0, "transformer": 4.0},
        {"length": 16384, "lmm": 2.0, "mag": 4.0, "transformer": 4.0},
    ]
    assert report.crossing(rows, "lmm") == pytest.approx(2048)
    assert report.crossing(rows, "mag") is None
    assert report.crossing(rows[1:], "lmm") == 4096
