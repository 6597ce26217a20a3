"""The ablation's streams at toy size."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.ablation.streams import StreamConfig, Streams
from experiments.comparison.page import number
from experiments.training.config import OptimizerConfig
from tests.experiments.toy_data import write_data
from titans_jax import MemoryConfig, TitansConfig
from titans_jax.data.tokenizers import ByteTokenizer

MODEL = TitansConfig(
    variant="lmm", dim=8, num_layers=1, num_heads=2, feed_forward=16, persistent_tokens=0,
    memory=MemoryConfig(num_heads=2, chunk=16),
)  # fmt: skip
CONFIG = StreamConfig(
    model=MODEL, held_out=0.3, length=32, batch_size=1, steps=2, tokens=2048, seeds=(0, 1),
    optimizer=OptimizerConfig(learning_rate=1e-3),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_streams_are_a_study_that_continues(data, tmp_path):
    one = dataclasses.replace(CONFIG, seeds=(0,))
    first = Streams(data, one, ByteTokenizer()).run({"base": MODEL}, tmp_path)["models"]["base"]
    assert number(first, ("bits", "2048"))[1] is None
    record = (tmp_path / "base" / "seed_0" / "record.json").read_bytes()
    found = Streams(data, CONFIG, ByteTokenizer()).run({"base": MODEL}, tmp_path)
    model = found["models"]["base"]
    assert found["complete"]
    assert model["seeds"] == [0, 1]
    assert model["sweep"] == {}  # there was nothing to choose
    assert model["results"][0] == first["results"][0]
    # Read, not trained again.
    assert (tmp_path / "base" / "seed_0" / "record.json").read_bytes() == record
    bits = [results["bits"] for results in model["results"]]
    assert list(bits[0]) == ["1024", "2048"]
    assert bits[0] != bits[1]
    mean, _ = number(model, ("bits", "2048"))
    np.testing.assert_allclose(mean, (bits[0]["2048"] + bits[1]["2048"]) / 2, rtol=1e-12)
    assert 7.5 < mean < 8.5  # two steps from chance: 8 bits


def test_another_trial_is_refused_before_training(data, tmp_path):
    folder = tmp_path / "base" / "seed_0"
    folder.mkdir(parents=True)
    streams = Streams(data, CONFIG, ByteTokenizer())
    described = streams.described(MODEL, 0)
    (folder / "config.json").write_text(json.dumps({**described, "steps": 7}))
    with pytest.raises(ValueError, match=r"another result:\n  steps: 7 there, 2 given"):
        streams.run({"base": MODEL}, tmp_path)


def test_the_held_out_text_must_hold_the_stream(data):
    config = dataclasses.replace(CONFIG, tokens=65_536)
    with pytest.raises(ValueError, match=r"config\.streams\.tokens must be at most the \d+ that"):
        Streams(data, config, ByteTokenizer())


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokens", 3000), ("tokens", 512), ("held_out", 1.0), ("steps", 0), ("seeds", ())],
)
def test_bad_fields_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        dataclasses.replace(CONFIG, **{field: value})
