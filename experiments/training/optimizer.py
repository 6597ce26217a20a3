"""AdamW with warm-up, cosine decay and clipping; weight decay on matrices only."""

import jax
import optax
from jaxtyping import PyTree

from experiments.training.config import OptimizerConfig

# Parameters under this name are stacked: their first axis counts layers, not features.
STACKED = "layers"
# What multiplies a vector as a matrix does. Not the memory's initial weights, which are a starting state; not
# persistent tokens, which are inputs; not norm scales, gains and biases, some of which have a head axis and so look
# like matrices.
MATRICES = ("kernel", "embedding")
# A depthwise kernel [width, D] is D separate filters.
NO_MATRICES = ("conv",)


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns rate(step): linear up to the peak, then a cosine down to `final_fraction` of it at `steps`."""
    warmup = min(max(1, round(config.warmup_fraction * steps)), steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / warmup,  # at 0 the first step would be lost
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.learning_rate * config.final_fraction,
    )


def decays(path: str, ndim: int) -> bool:
    """Whether weight decay applies to a parameter.

    Args:
      path: its name, e.g. "layers/feed_forward/up/kernel".
      ndim: its number of axes, the layer axis of stacked parameters included.
    """
    names = path.split("/")
    axes = ndim - (names[0] == STACKED)
    return (
        axes >= 2
        and names[-1].endswith(MATRICES)
        and not any(n.startswith(NO_MATRICES) for n in names)
    )


def decay_mask(params: PyTree) -> PyTree:
    """Returns the tree of booleans that says which parameters decay (see `decays`)."""
    return jax.tree_util.tree_map_with_path(lambda path, p: decays(path_name(path), p.ndim), params)


def path_name(path: tuple) -> str:
    """Returns a key path as "layers/mixer/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns clipping by the global norm followed by AdamW (decoupled decay, scaled by the learning rate)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )
