"""The memory-depth command at toy size, and the sizes of its models."""

import json

import pytest

from experiments.memory_depth.task import MemoryDepthConfig, make_models
from tests.experiments.test_command_line import command
from tests.experiments.toy_data import SMALL, write_data
from titans_jax import preset
from titans_jax.matching import count_parameters


def test_depths_are_compared_with_one_width_and_with_one_size():
    config = MemoryDepthConfig(depths=(1, 3), same_size_as=3)
    base = preset("tiny", "lmm", num_layers=1)
    one_width, one_size = make_models(config, base)
    assert {name: model.memory.depth for name, model in one_size.items()} == {"1": 1, "3": 3}
    assert {model.feed_forward for model in one_width.values()} == {base.feed_forward}
    assert one_size["3"] == one_width["3"]
    small, large = (count_parameters(one_width[depth]) for depth in "13")
    assert small < 0.9 * large
    assert abs(count_parameters(one_size["1"]) - large) < 0.03 * large


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"same_size_as": 5}, "same_size_as"),
        ({"lengths": (100,)}, "lengths"),
        ({"model": preset("tiny", "transformer")}, "variant"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MemoryDepthConfig(**fields)


@pytest.mark.slow
def test_both_studies_and_the_speed_are_reported(tmp_path):
    data, work = write_data(tmp_path / "data"), tmp_path / "work"
    flags = [
        f"--data_dir={data}", f"--workdir={work}", "--config.depths=(1,)", "--config.same_size_as=1",
        "--config.lengths=(32,)", "--config.tokens_per_step=64", "--config.repeats=1", *SMALL,
        "--config.model.variant=lmm",
        "--config.text.length=32", "--config.text.batch_size=2", "--config.study.seeds=(0,)",
    ]  # fmt: skip
    result = command("experiments.memory_depth.run", *flags)
    assert result.returncode == 0, result.stderr
    results = json.loads((work / "results.json").read_text())
    assert results["one_size"]["complete"]
    assert results["one_width"]["complete"]
    page = (work / "results.md").read_text()
    assert "at equal parameters, trained in windows of 32" in page
    assert f"| 1 | {results['speed']['rows'][0]['tokens_per_second']:,.0f} ± " in page
    assert (work / "results.png").stat().st_size > 5_000
