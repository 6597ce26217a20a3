"""A training that is killed at any moment, while it writes too, ends as if it never had been."""

import random
import re
import time

import pytest

from tests.experiments.killable_program import assert_same_checkpoint, finished, start
from tests.experiments.tiny_run import tiny_config

KILLS = 10


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    config = tiny_config(
        tmp_path, steps=40, checkpoint_every=1, eval_every=0, model__variant="transformer"
    )
    straight, broken, programs = (tmp_path / name for name in ("straight", "broken", "programs"))
    process, _ = start(config, straight, programs, tmp_path / "straight.out")
    process.join()
    assert process.exitcode == 0
    times = [(straight / f"transformer/checkpoints/{step}").stat().st_mtime for step in (39, 40)]
    step_seconds = times[1] - times[0]

    moments, unfinished, continued = random.Random(0), 0, 0
    for life in range(KILLS + 1):
        before, output = finished(broken), tmp_path / f"{life}.out"
        process, ready = start(config, broken, programs, output)
        assert ready.recv()
        if life < KILLS:
            # Every fourth while it starts, the others after their first checkpoint, in the next steps.
            while life % 4 and process.is_alive() and finished(broken) == before:
                time.sleep(step_seconds / 20)
            time.sleep(moments.uniform(0, 1.5 * step_seconds))
            process.kill()
        process.join()
        said = output.read_text()
        found = re.search(r"continuing after step (\d+)", said)
        if found:  # it lived so long: nothing that was finished is lost
            assert int(found[1]) == before
            continued += 1
        assert "damaged" not in said  # what has its name is whole
        unfinished += "was never finished" in said
        assert finished(broken) >= before
    assert process.exitcode == 0
    assert continued >= KILLS // 2  # the kills came late enough
    assert unfinished >= 1  # and some while a checkpoint was written

    assert_same_checkpoint(straight, broken, 40)
