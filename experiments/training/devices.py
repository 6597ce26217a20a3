"""How JAX is told to use a CPU.

XLA runs the memory's many small matmuls on one core of a CPU, so a CPU is made to look like several devices, one
per core, before JAX starts. A real accelerator is left as it is.

A model that generates runs a loop of some two hundred small kernels a token, and XLA's CPU backend takes about as long
to start them as to run them: `single_kernel_loops` has it compile a small loop to one kernel.

XLA's CPU backend also hands reductions to YNNPACK, which is slow at the memory's short ones: `compiler_options` leaves
it the matmuls alone.
"""

import os

import jax

#: Bytes that a loop may touch per turn and still be one kernel, which has one thread.
SMALL_LOOP = 1 << 24


def single_kernel_loops() -> None:
    """Tells XLA to compile small loops for a CPU to one kernel each; call it before JAX computes anything.

    XLA reads it from the environment only, so it holds for the whole process: it is for commands that generate. It has
    no effect on other platforms.
    """
    option = f"--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold={SMALL_LOOP}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {option}".strip()


def split_cpu(devices: int) -> None:
    """Makes the CPU look like `devices` devices; has no effect on other platforms.

    Raises:
      ValueError: JAX runs already, with another number of CPU devices.
    """
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:
        if jax.local_device_count("cpu") != devices:
            raise ValueError(
                f"config.cpu_devices={devices}: JAX runs already with "
                f"{jax.local_device_count('cpu')} CPU devices; set it before anything is computed"
            ) from error


def compiler_options() -> dict[str, str]:
    """What to tell XLA, by `jax.jit(..., compiler_options=...)`, when it compiles a memory for this platform.

    Not for training: with it the XLA of jax 0.10.2 gives NaN for MAL, forward already (that of jax 0.12 does not).
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
