"""MFU: what a training step needs to multiply, over what the devices could.

Three times the matmuls of the forward pass, as `experiments.compile_report` counts them; what rematerialisation does
twice counts once. Known only for the TPUs whose peak is in pallas_kernels/chips.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from experiments.kernel_report.matmuls import matmuls
from experiments.training.step import make_eval_step
from pallas_kernels.chips import CHIPS


def peak_flops(device_kind: str) -> float:
    """Returns the peak bf16 FLOP/s of one device, 0 if it is not in the table.

    Args:
      device_kind: as JAX names it.
    """
    for chip in CHIPS.values():
        if device_kind in chip.kinds:
            return chip.peak * chip.device_cores / chip.cores
    return 0.0


def flops_per_token(
    graphdef: nnx.GraphDef, shapes: PyTree, batch_size: int, length: int, reset: bool
) -> float:
    """Returns the multiplications and additions that a training step needs for each token.

    Traces the forward pass; call it without a mesh in context, in which kernels hide their products.

    Args:
      graphdef: the model's static part.
      shapes: of its parameters.
      batch_size: sequences.
      length: tokens in each.
      reset: whether batches say where documents start.
    """
    kinds = {"inputs": jnp.int32, "targets": jnp.int32, "loss_mask": jnp.bool_}
    if reset:
        kinds["reset"] = jnp.bool_
    batch = {name: jax.ShapeDtypeStruct((batch_size, length), k) for name, k in kinds.items()}
    with jax.default_device(
        "cpu"
    ):  # as it would run there: no kernels, whose products are hidden too
        products = matmuls(make_eval_step(graphdef), shapes, batch)
    return 3 * sum(p.flops for p in products) / (batch_size * length)
