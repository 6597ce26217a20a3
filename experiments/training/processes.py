"""One program in several processes, one per host: how they find each other, and which of them speaks and writes.

Every process runs the same code on its own devices; `jax.distributed` connects them. On a TPU pod it knows the others
by itself; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID say.
"""

import os

import jax

from experiments.training.config import TrainConfig


def join_processes(config: TrainConfig) -> None:
    """Connects this process with the others if config.distributed; before anything is computed.

    Raises:
      ValueError: they cannot be found.
    """
    if not config.distributed:
        return
    number, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if index is None else int(index),
            heartbeat_timeout_seconds=config.process_timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"config.distributed=True: {error}. Outside a TPU pod set JAX_COORDINATOR_ADDRESS=host:port of the first "
            "process, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(line, flush=True)
