"""What becomes of this process when one that it works with is lost: it ends, to be started again.

JAX's heartbeats find out within config.process_timeout, and its runtime then aborts the others. Where XLA notices a
broken connection first, Python gets an exception that says nothing of the cause; `outlive` waits for the verdict. An
abort is turned into the exit code of something that can be started again, but only after this process has done a step:
what aborts before that would most likely do so every time.
"""

import ctypes
import os
import signal
import sys
import time
import traceback

import jax

from experiments.training.preemption import PREEMPTED

_MESSAGE = (
    b"error: aborted, most likely because another process was lost (see above); exiting with the code of something "
    b"that can be started again\n"
)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _leave(number: int) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _MESSAGE)
    os._exit(PREEMPTED)


def restart_after_abort() -> None:
    """From now on, in a job of several processes, an abort of the runtime exits with `PREEMPTED`."""
    if jax.process_count() > 1:
        # Python's own handlers run later, between two of its instructions; after an abort there is no later.
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(signal.SIGABRT, _leave)


def outlive(process_timeout: int) -> None:
    """After an exception in a job of several processes: waits to be aborted, if another one was lost.

    If none was, the fault is this process' own. It is printed, and the process exits without waiting for the others,
    which would wait for it.

    Args:
      process_timeout: see TrainConfig.
    """
    traceback.print_exc()
    print(
        f"waiting {2 * process_timeout} seconds for news of a lost process",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(2 * process_timeout)  # a heartbeat may have come just before
    print("error: no process was lost; the exception above is this one's own", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
