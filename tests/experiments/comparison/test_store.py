"""The store: what is made once, refused, left to another process, and how it is written."""

import fcntl
import json

import pytest

from experiments.comparison import store

KEY = {"task": {"length": 3}, "seeds": (0, 1)}


def test_a_result_is_made_once(tmp_path):
    made = []

    def make():
        made.append(True)
        return {"value": 7}

    first = store.keep(tmp_path / "one", KEY, make)
    assert store.keep(tmp_path / "one", KEY, make) == first
    assert made == [True]
    assert first["value"] == 7
    assert first["config"] == {"task": {"length": 3}, "seeds": [0, 1]}
    assert {"commit", "versions", "machine", "seconds", "cpu_seconds"} <= set(first)
    again = store.keep(tmp_path / "two", KEY, lambda: {"seconds": 100.0})
    assert again["seconds"] == 100.0  # of several starts


def test_what_fails_is_not_kept(tmp_path):
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.keep(tmp_path, KEY, fail)
    assert store.read_record(tmp_path) is None
    assert store.keep(tmp_path, KEY, lambda: {"value": 1})["value"] == 1


def test_another_key_is_refused_with_both_values(tmp_path):
    store.keep(tmp_path, KEY, dict)
    other = {"task": {"length": 4}, "seeds": (0, 1), "rate": 0.5}
    with pytest.raises(
        ValueError, match=r"rate: 'absent' there, 0\.5 given\n  task\.length: 3 there, 4 given"
    ):
        store.keep(tmp_path, other, dict)


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert store.keep(tmp_path, KEY, dict) is None
        assert not (tmp_path / "config.json").exists()
    assert store.keep(tmp_path, KEY, dict) is not None


def test_json_has_a_line_for_whatever_fits(tmp_path):
    content = {
        "short": [1, 2, {"a": None}],
        "long": {str(n): [0.1] * 30 for n in range(3)},
        "numbers": [0.125] * 60,
        "none": {},
    }
    store.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content
    assert ' "short": [1, 2, {"a": null}],' in text.splitlines()
    assert len(text.splitlines()) == 2 + 1 + 5 + 5 + 1
    assert max(map(len, text.splitlines())) <= 200


def test_origins_are_counted(tmp_path):
    records = [store.keep(tmp_path / str(n), {**KEY, "n": n}, dict) for n in range(2)]
    records[1]["machine"] = "another"
    found = store.origin(records)
    assert found["trials"] == 2
    assert len(found["machines"]) == 2
    assert found["seconds"] == records[0]["seconds"] + records[1]["seconds"]
