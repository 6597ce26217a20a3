"""The commands, on models and texts that take seconds."""

import json

import pytest

from tests.experiments.test_command_line import command
from tests.experiments.toy_data import SMALL, write_data

RUN = "experiments.language_modeling.run"


@pytest.mark.slow
def test_a_study_is_run_and_a_model_of_it_questioned(tmp_path):
    data, work = write_data(tmp_path / "data"), tmp_path / "work"
    flags = [
        f"--data_dir={data}", f"--workdir={work}", "--config.models=('transformer','transformer_window')",
        "--config.text.length=32", "--config.text.batch_size=2", *SMALL,
    ]  # fmt: skip
    result = command(RUN, *flags)
    assert result.returncode == 0, result.stderr
    page = (work / "results.md").read_text()
    assert "| Transformer++, window |" in page
    assert (work / "results.png").stat().st_size > 5_000
    study = json.loads((work / "results.json").read_text())["study"]
    assert study["complete"]
    assert study["models"]["transformer"]["seeds"] == [0, 1]
    assert set(study["models"]["transformer"]["results"][0]["questions"]) >= {
        "lambada_test",
        "piqa_validation",
    }

    trial = work / "transformer" / "rate_0.001" / "seed_0"
    found = tmp_path / "found.json"
    flags = [f"--data_dir={data}", f"--workdir={trial}", f"--json={found}"]
    answers = command("experiments.language_modeling.evaluate", *flags)
    assert answers.returncode == 0, answers.stderr
    tasks = json.loads(found.read_text())["tasks"]
    record = json.loads((trial / "record.json").read_text())
    assert tasks["piqa_validation"] == record["results"]["questions"]["piqa_validation"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([RUN], "--data_dir"),
        ([RUN, "--data_dir=."], "no file text/valid_1661.txt"),
    ],
)
def test_what_does_not_fit_is_one_line(flags, message):
    result = command(*flags)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
