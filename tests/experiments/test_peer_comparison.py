"""The comparison with titans-pytorch: FLOP count, ratios, statistics, flags; no clock is tested."""

import io
import json
import subprocess
import sys

import pytest

from experiments.comparison.page import page
from experiments.efficiency import compare_peer, peer_page
from experiments.efficiency import peer_cases as cases
from experiments.efficiency import peer_protocol as worker
from experiments.efficiency.peer_processes import Worker, peer_interpreter, running


def test_flops_of_a_linear_memory_by_hand():
    """One head, depth 1, chunk 2, width 3: every product of the docstring counted by hand."""
    case = cases.Case(batch=2, length=4, dim=3, heads=1, chunk=2, depth=1, expansion=1)
    projections = 3 * 2 * 9 + 3 * 2 * 3 * 1
    anchor, write, read, pairs, decays = 2 * 9, 4 * 9, 4 * 9, 2 * 2 * 3 * 2, 2 * 4
    assert cases.forward_flops(case) == 8 * (projections + anchor + write + read + pairs + decays)
    assert cases.training_flops(case) == 3 * cases.forward_flops(case)


def test_flops_of_a_deep_memory_by_hand():
    """Depth 2, two heads: the second layer alone is propagated through backwards."""
    case = cases.Case(batch=1, length=4, dim=4, heads=2, chunk=4, depth=2, expansion=3)
    assert cases.layer_widths(case) == [(2, 6), (6, 2)]
    projections = 4 * 2 * 16 + 3 * 2 * 4 * 2
    matrix = 2 * 2 * 6
    per_head = 2 * 16 + (5 + 6) * matrix + 2 * (2 * 4 * (2 + 6))
    assert cases.forward_flops(case) == 4 * (projections + 2 * per_head)


def test_flops_are_linear_in_tokens():
    short, long = (cases.Case(1, length, 256, 4, 64, 2, 2) for length in (1024, 4096))
    assert cases.forward_flops(long) == 4 * cases.forward_flops(short)


def measured(ours, same, default, memory):
    """A row as `measure_row` makes it, from four (fwd, fwdbwd) speeds and two growths."""
    speed = {
        side: {which: compare_peer.speed_statistics([1000 / value], 1000) for which, value in pair}
        for side, pair in (
            (side, zip(cases.PASSES, values, strict=True))
            for side, values in (("ours", ours), ("same", same), ("default", default))
        )
    }
    row = {
        "case": {
            "batch": 2,
            "length": 1024,
            "dim": 256,
            "heads": 4,
            "chunk": 64,
            "depth": 2,
            "expansion": 2,
        },
        "speed": speed,
        "memory": {
            "ours": memory[0],
            "ours_compiling": memory[0],
            "same": memory[1],
            "default": memory[1],
        },
        "matmul_fraction": {"fwd": 0.5, "fwdbwd": 0.25},
        "matmul_flops_per_second": 2e11,
    }
    return row | compare_peer.row_ratios(row)


def test_summary_line():
    """Ours over theirs; means are geometric; the same-rule worst spans both passes."""
    rows = [
        measured(ours=(800, 200), same=(100, 100), default=(100, 50), memory=(25, 100)),
        measured(ours=(200, 800), same=(100, 100), default=(400, 1000), memory=(100, 100)),
    ]
    assert cases.summary_line(rows) == (
        "same_fwd=4.00 same_fwdbwd=4.00 same_worst=2.00"
        " default_fwdbwd=1.79 default_worst=0.80 memory_ratio=0.50"
    )


def test_geometric_mean_refuses_what_it_cannot_mean():
    for values in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="positive numbers"):
            cases.geometric_mean(values)


def test_speed_statistics():
    """Speeds in tokens/s: the median call, the fastest, and quartiles with low below high."""
    speed = compare_peer.speed_statistics([0.5, 0.1, 0.2, 0.25, 0.2], 100)
    assert speed == {"median": 500, "best": 1000, "low": 400, "high": 500, "calls": 5}
    assert compare_peer.speed_statistics([0.5], 100)["low"] == 200


def test_page_has_every_row_the_command_and_the_line_of_means():
    row = measured(ours=(800, 200), same=(100, 100), default=(100, 50), memory=(2**20, 2**22))
    result = {
        "command": "python -m experiments.efficiency.compare_peer",
        "machine": {
            "processor": "P",
            "cores": 2,
            "load": 0.25,
            "python": "3",
            "jax": "0",
            "peer": "t 1",
            "date": "d",
            "accelerator": "",
        },
        "rows": [row],
        "scaling": [{"length": 1024, "fwd": 1.5, "fwdbwd": 4.5}],
        "summary": cases.summary_line([row]),
    }
    text = page(result, "peer", peer_page.REPORT)
    label = "| 2, 1024, 256, 4, 64, 2, 2 |"
    assert f"{label} fwd | 800 (800 to 800) | 50% | 100 (100 to 100) | 8.00 |" in text
    assert f"{label} 1 | 1 | 4 | 4 | 0.25 |" in text
    assert "| 1024 | 1.50 | 4.50 |" in text
    assert "first row: 0.25." in text
    assert result["command"] in text
    assert result["summary"] in text
    assert "1.50 fwd, 4.50 fwdbwd" in peer_page.describe_scaling(result["scaling"][0])
    assert "8.00x" in peer_page.describe_row(row)


GROWTH = """
from experiments.efficiency import peer_protocol as worker
kept = []
print(worker.memory_growth(lambda: kept.append(bytearray(b"\\1") * (2**24 + 2**20)), 1))
"""


def test_growth_is_at_least_what_a_call_keeps():
    """16 MiB that a call touches appear in the growth; it touches 17, since a process may give pages back meanwhile.

    In a process of its own: one that has run other tests gives back as much as that.
    """
    output = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True).stdout
    assert 2**24 <= int(output) < 2**26


def test_every_turn_times_at_least_one_call_after_one_that_it_does_not_time():
    calls = []
    assert len(worker.time_calls(lambda: calls.append(None), 0.0)) == 1
    assert len(calls) == 2


def test_worker_answers(monkeypatch, capsys):
    calls = []
    requests = [
        {"op": "time", "pass": "fwd", "seconds": 0.0},
        {"op": "memory", "pass": "fwdbwd", "calls": 3},
        {"op": "matmul"},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    passes = {"fwd": lambda: calls.append("fwd"), "fwdbwd": lambda: calls.append("fwdbwd")}
    worker.serve(passes, lambda: 5.0)
    answers = [
        json.loads(line.removeprefix(worker.MARK)) for line in capsys.readouterr().out.splitlines()
    ]
    assert calls == ["fwd", "fwd", "fwdbwd", "fwdbwd", "fwdbwd"]
    assert len(answers[0]) == 1
    assert answers[2] == 5.0


def test_a_worker_that_dies_says_what_it_wrote():
    one = Worker(sys.executable, "no_such_worker")
    with running({"ours": one}), pytest.raises(RuntimeError, match="No module named"):
        one.ask("matmul")


def test_peer_interpreter_must_have_torch(tmp_path):
    with pytest.raises(SystemExit, match=r"no such file.*make parity"):
        peer_interpreter(str(tmp_path / "python"))
    empty = tmp_path / "fails"
    empty.write_text("#!/bin/sh\necho 'no torch here' >&2; exit 1\n")
    empty.chmod(0o755)
    with pytest.raises(SystemExit, match=r"no torch here.*make parity"):
        peer_interpreter(str(empty))


@pytest.mark.parametrize("rows", [(6,), (-1,), (0, 9), ()])
def test_rows_must_exist(rows):
    with pytest.raises(
        ValueError, match=r"rows must be (the index of a row, from 0 to 5|not empty)"
    ):
        compare_peer.PeerConfig(rows=rows)


def test_nothing_is_written_unless_it_is_asked_for():
    """Neither all rows nor some write the committed page."""
    config = compare_peer.PeerConfig()
    assert config.rows == (0, 1, 2, 3, 4, 5)
    assert (config.json, config.markdown) == ("", "")
    with pytest.raises(ValueError, match="min_rounds must be at most max_rounds = 2, got 3"):
        compare_peer.PeerConfig(min_rounds=3, max_rounds=2)
