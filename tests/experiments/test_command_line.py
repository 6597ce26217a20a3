"""The real commands, in processes of their own: train with the baseline, continue, sample."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.experiments.tiny_run import write_text

LAST_LINE = re.compile(
    r"valid_bpb=(\S+) order0_bpb=(\S+) lzma_bpb=(\S+)(?: transformer_bpb=(\S+))? seconds=\d+"
)


def command(module, *flags, programs=None, most_bytes=None):
    """Runs a module; compiled programs are kept in a folder if one is given, and files may grow so far."""
    # What a user's shell says of data would otherwise stand in for a flag that is left out.
    environment = {name: value for name, value in os.environ.items() if name != "TITANS_DATA"}
    if programs is not None:
        environment |= {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    limited = [] if most_bytes is None else ["prlimit", f"--fsize={most_bytes}"]
    return subprocess.run(
        [*limited, sys.executable, "-m", module, *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_train_continue_sample(tmp_path):
    text, workdir = write_text(tmp_path), tmp_path / "run"
    small = {
        "steps": 2, "data.path": text, "data.sequence_length": 16, "batch_size": 2, "sample.length": 5,
        "model.dim": 32, "model.num_layers": 1, "model.variant": "lmm", "model.memory.chunk": 8,
        "model.memory.num_heads": 2, "model.num_heads": 2, "model.feed_forward": 32,
    }  # fmt: skip
    flags = ["--config=experiments/configs/tiny.py", f"--workdir={workdir}"]
    flags += [f"--config.{name}={value}" for name, value in small.items()]
    kept = {"programs": tmp_path / "programs"}
    first = command("experiments.train", *flags, **kept)
    assert first.returncode == 0, first.stderr
    scores = LAST_LINE.fullmatch(first.stdout.splitlines()[-1])
    assert scores is not None
    assert all(0 < float(score) < 9 for score in scores.groups())
    for name in ("config.json", "versions.json", "report.json", "sample.txt", "loss.png"):
        assert (workdir / name).stat().st_size > 0
    for model in ("lmm", "transformer"):
        records = [
            json.loads(r) for r in (workdir / model / "metrics.jsonl").read_text().splitlines()
        ]
        assert [r["step"] for r in records if "loss" in r] == [1, 2]
        assert any((workdir / model / "tensorboard").iterdir())
        assert "embedding" in (workdir / model / "parameters.txt").read_text()

    refused = command("experiments.train", *flags, "--config.seed=5")
    assert refused.returncode != 0
    assert "config.seed: 0 in the workdir, 5 given" in refused.stderr
    assert "Traceback" not in refused.stderr

    # No files may grow any more, as on a full disk: one line that says what is lost, and no baseline's score before.
    full = [f"--workdir={tmp_path / 'full'}", "--config.model.variant=transformer"]
    stopped = command("experiments.train", *flags, *full, most_bytes=30_000)
    assert stopped.returncode == 1
    (line,) = stopped.stderr.splitlines()
    assert re.match(
        r"error: checkpoint .*/full/transformer/checkpoints/2 could not be written \(", line
    )
    again = command("experiments.train", *flags, *full, **kept)
    scores = LAST_LINE.fullmatch(again.stdout.splitlines()[-1])
    assert scores is not None
    assert scores[1] == scores[4]  # it is its own baseline

    # A run that diverges: one message with what is known, and no traceback.
    diverges = [f"--workdir={tmp_path / 'diverges'}", "--config.optimizer.learning_rate=1e30"]
    bad = command("experiments.train", *flags, *diverges, "--config.steps=9", **kept)
    assert bad.returncode == 1
    assert re.search(r"^error: lmm step \d: loss .*not finite .*memory .*bad_batch_", bad.stderr)
    assert "Traceback" not in bad.stderr

    sample = command(
        "experiments.sample", f"--workdir={workdir}", "--prompt=def main(", "--length=5"
    )
    assert sample.returncode == 0, sample.stderr
    assert sample.stdout.startswith("def main(")
