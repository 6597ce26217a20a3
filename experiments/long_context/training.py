"""Training on streams: every sequence goes on where the one before it stopped, with its memory.

A model that is trained on separate sequences meets its memory only as it is shortly after the initial weights M_0,
and comes to rely on them; tens of thousands of tokens later M_0 is forgotten and so is what the model can do. Here a
lane of the batch carries its state from window to window of a text, gradients stop at the window's start (truncated
backpropagation through time), and a lane starts anew, elsewhere in the text, with probability 1 / `MEAN_WINDOWS`. So
M_0, young and old memories are all trained for.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from experiments.configs import long_context
from experiments.training.config import TrainConfig, train_config
from experiments.training.devices import split_cpu
from experiments.training.mesh import check_layout, make_layout
from experiments.training.optimizer import make_optimizer
from experiments.training.step import init_params, split_model
from titans_jax.data.tokenizers import ByteTokenizer
from titans_jax.placement import BATCH_AXES

#: Windows that a lane reads on average before it starts anew.
MEAN_WINDOWS = 64
#: File beside the model; its presence says that the training is complete.
RECORD = "training.json"


def make_config(variant: str, data_path: str, steps: int) -> TrainConfig:
    """The config of one model of the experiment."""
    config = long_context.get_config()
    config.steps, config.data.path, config.model.variant = steps, data_path, variant
    if variant == "transformer":
        config.model.window, config.model.persistent_tokens = None, 0
    config = train_config(config)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, vocab_size=ByteTokenizer().vocab_size)
    )


def windows(ids: np.ndarray, lanes: int, length: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless windows ``[lanes, length]``, each lane going through the text until it starts anew somewhere."""
    rng = np.random.default_rng(seed)
    place = np.full(lanes, ids.size)  # every lane starts with a new place
    while True:
        new = (rng.random(lanes) < 1 / MEAN_WINDOWS) | (place + length + 1 > ids.size)
        place = np.where(new, rng.integers(0, ids.size - length, lanes), place)
        pieces = np.stack([ids[p : p + length + 1] for p in place])
        yield {"inputs": pieces[:, :-1], "targets": pieces[:, 1:], "new": new}
        place = place + length


def train(config: TrainConfig, ids: np.ndarray) -> tuple[Any, list[float]]:
    """Returns the trained model and the loss of every step in nats per token.

    Full attention keeps no state of one size: its lanes start anew with every window.
    """
    split_cpu(config.cpu_devices)
    layout = make_layout(config.mesh)
    check_layout(config, layout.mesh)
    graphdef, _ = split_model(config.model)
    optimizer = make_optimizer(config.optimizer, config.steps)
    carries = config.model.variant != "transformer"
    lanes = NamedSharding(layout.mesh, PartitionSpec(None, BATCH_AXES))

    def fresh(params: Any) -> Any:
        return nnx.merge(graphdef, params).init_state(config.batch_size) if carries else None

    def loss(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        state = jax.tree.map(
            lambda start, old: jnp.where(_beside(batch["new"], old), start, old),
            fresh(params),
            state,
        )
        logits, state = nnx.merge(graphdef, params)(batch["inputs"], state, aligned=carries)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return jnp.mean(losses), state if carries else None

    # Without devices.compiler_options: with it the XLA of jax 0.10.2 returns NaN for MAL with a carried state; that of
    # jax 0.12 does not.
    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, opt_state: Any, state: Any, batch: Any) -> tuple[Any, Any, Any, Any]:
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        state = jax.lax.with_sharding_constraint(state, lanes)
        return optax.apply_updates(params, updates), opt_state, state, value

    params = layout.replicate(init_params(config.model, config.seed))
    opt_state = layout.replicate(optimizer.init(params))
    state = jax.device_put(jax.jit(fresh)(params), lanes)
    losses, began = [], time.perf_counter()
    batches = windows(ids, config.batch_size, config.data.sequence_length, config.seed)
    with jax.set_mesh(layout.mesh):
        for number in range(1, config.steps + 1):
            batch = layout.share(next(batches))
            params, opt_state, state, value = step(params, opt_state, state, batch)
            losses.append(float(value))
            if number % 50 == 0 or number == config.steps:
                bits = np.mean(losses[-50:]) / math.log(2)
                print(
                    f"{config.model.variant} step {number}/{config.steps}  {bits:.4f} bits per byte  "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
    return nnx.merge(graphdef, jax.device_get(params)), losses


def _beside(flags: jax.Array, leaf: jax.Array) -> jax.Array:
    """Flags ``[B]`` against a leaf ``[L, B, ...]``."""
    return flags.reshape(1, -1, *(1,) * (leaf.ndim - 2))
