"""What installing the library asks of what is installed already."""

import configparser
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def test_nothing_that_a_runtime_has_is_downgraded():
    config = configparser.ConfigParser()
    config.read(SETUP)
    required = config["options"]["install_requires"].split("\n")
    assert any(line.startswith("jax>=") for line in required)
    assert [line for line in required if "<" in line or "==" in line] == []
