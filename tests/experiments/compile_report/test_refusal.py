"""A compiler that has too little memory gives bytes, whichever way it says so."""

import pytest

from experiments.compile_report.compile import refused_bytes

GIB = 2**30


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (39.50G) exceeds "
        "available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 39.50G of "
        "15.75G hbm. Exceeded hbm capacity by 23.75G.",
    ],
)
def test_bytes_needed_and_there(message):
    assert refused_bytes(message) == (int(39.5 * GIB), int(15.75 * GIB))


def test_any_other_error_is_no_answer():
    assert refused_bytes("INTERNAL: Mosaic failed to compile TPU kernel") is None
