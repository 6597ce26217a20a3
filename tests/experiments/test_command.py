"""The front of every command: its line in a result, its help, its flags."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

from experiments import command
from tests.experiments.test_command_line import command as run

#: A program whose config is a file, and two whose fields are flags; and a field of each one's help.
PROGRAMS = {
    "experiments.ablation.run": "--config.streams.held_out=0.17\n      fraction of them that is not trained on",
    "experiments.genomics.run": "--epochs=4\n      of the language models; the CNN has at least 10.",
    "experiments.time_series.run": "--horizons=96,192,336,720\n      rows to predict",
}


def test_the_command_can_be_given_again_elsewhere(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("sys.argv", ["run.py", "--seed=1", "--names=('a',)"])
    assert command.command_line("experiments.x.run") == "python -m experiments.x.run --seed=1 " + (
        "'--names=('\"'\"'a'\"'\"',)'"
    )
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert command.command_line("experiments.x.run", ["--rows=0"]) == (
        "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m experiments.x.run --rows=0"
    )
    places = ["--data_dir=/a", "--output=/b", "--workdir=/c", "--task=toy", "--pretrained=/d"]
    monkeypatch.delenv("GLIBC_TUNABLES")
    wanted = "python -m x --data_dir=DIR --task=toy --pretrained=DIR"
    assert command.command_line("x", places) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_lists_flags_and_every_field(program):
    said = run(program, "--help")
    assert said.returncode == 0, said.stderr
    assert PROGRAMS[program] in said.stdout
    assert "--workdir=runs/" in said.stdout
    assert "--grain_num_threads" not in said.stdout
    assert said.stdout.startswith((importlib.import_module(program).__doc__ or "")[:40])


@dataclasses.dataclass(frozen=True)
class Inner:
    """Inside.

    Attributes:
      width: how wide: in
        inches.
    """

    width: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    """Outside.

    Attributes:
        name: of it.
        inner: see Inner.
    """

    name: str = "a"
    inner: Inner = Inner()


@dataclasses.dataclass(frozen=True)
class Silent:
    """Says nothing."""

    width: int = 3


def test_a_field_without_a_line_is_an_error():
    assert command.nested_docs(Outer) == {"name": "of it.", "inner.width": "how wide: in inches."}
    with pytest.raises(ValueError, match="Silent's docstring says nothing of width"):
        command.field_docs(Silent)


@pytest.mark.parametrize(
    "config",
    [
        "ablation.run.AblationConfig", "babilong.task.BabilongConfig", "efficiency.run.EfficiencyConfig",
        "language_modeling.run.LanguageModelingConfig", "memory_depth.task.MemoryDepthConfig",
        "needle_in_a_haystack.task.NeedleConfig", "state_tracking.task.StateTrackingExperiment",
        "training.config.TrainConfig", "efficiency.compare_peer.PeerConfig", "genomics.run.GenomicsConfig",
        "time_series.run.ForecastingConfig", "time_series.online.OnlineConfig", "time_series.pictures.PicturesConfig",
    ],
)  # fmt: skip
def test_every_field_of_every_config_has_its_line(config):
    module, _, name = config.rpartition(".")
    documented = command.nested_docs(
        getattr(importlib.import_module(f"experiments.{module}"), name)
    )
    assert documented
    assert all(documented.values())


def test_no_program_has_another_front():
    """None parses its own command line but these: a launcher's first argument is an action, a notebook's its name."""
    root = Path(command.__file__).parent
    others = {
        root / "command.py",
        root / "notebooks" / "check.py",
        root / "launch" / "arguments.py",
    }
    for path in set(root.rglob("*.py")) - others:
        text = path.read_text(encoding="utf-8")
        assert "argparse" not in text, path
        assert "app.run(" not in text, path


def test_errors_are_one_line():
    with pytest.raises(SystemExit, match="error: no such thing"), command.messages():
        raise ValueError("no such thing")
    assert "absl.logging" in sys.modules
