"""The training step and the validation loss: pure functions over a model that was split once.

A model is (graphdef, params): `graphdef` is static, `params` a nested dict of arrays. No loop holds a module. Where
parameters, gradients and the optimizer's state lie is part of the step; where the batch lies is said by the batch.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from experiments.training.carry import Carried, rows_over, unless_bad
from experiments.training.groups import group_norms
from experiments.training.guard import GuardState
from experiments.training.sharding import shardings
from titans_jax import Titans, TitansConfig
from titans_jax.models.loss import carried_loss, next_token_loss

Batch = dict[str, Any]  # "inputs", "targets": Int32[B T]; "loss_mask", "reset": Bool[B T]


class StepMetrics(NamedTuple):
    """What one optimizer step reports; on the device."""

    loss: Float[Array, ""]  # nats per token, over the whole batch
    grad_norm: Float[Array, ""]  # global norm before clipping
    grad_norms: Float[Array, " groups"]  # of each of `GROUPS`, before clipping
    update_norms: Float[Array, " groups"]  # of what was added to the parameters
    bad: Bool[Array, ""]  # a guarded optimizer did nothing
    mean_loss: Float[Array, ""]  # of recent steps, which the guard compares with; 0 without one


def split_model(config: TitansConfig) -> tuple[nnx.GraphDef, PyTree]:
    """Returns the model's static part and the shapes of its parameters; allocates nothing."""
    model = nnx.eval_shape(lambda: Titans(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def make_init(config: TitansConfig, placed: PyTree = None) -> Callable[[int], PyTree]:
    """Returns the function (seed) -> fresh parameters, a nested dict of float32 arrays; compiled at its first call.

    Args:
      config: of the model.
      placed: their shardings: each device makes its own part, of the same numbers. None: all on one device.
    """

    def init(key: Array) -> PyTree:
        return nnx.to_pure_dict(nnx.split(Titans(config, rngs=nnx.Rngs(key)))[1])

    compiled = jax.jit(init, out_shardings=placed)
    return lambda seed: compiled(jax.random.key(seed))


def init_params(config: TitansConfig, seed: int, placed: PyTree = None) -> PyTree:
    """Returns the fresh parameters of one seed (see `make_init`)."""
    return make_init(config, placed)(seed)


class Placed(NamedTuple):
    """Shardings of a training state's parts."""

    params: PyTree
    opt_state: PyTree


def place(mesh: Mesh, shapes: PyTree, started: Callable[[PyTree], PyTree]) -> Placed:
    """Where parameters and the optimizer's state lie (sharding.py), and a carried memory.

    Args:
      mesh: the run's.
      shapes: of the parameters.
      started: the optimizer's `init`, or `carry.start`.
    """
    state = jax.eval_shape(started, shapes)
    if isinstance(state, Carried):
        placed: Any = Carried(shardings(state.optimizer, mesh), rows_over(mesh, state.memory))
    else:
        placed = shardings(state, mesh)
    return Placed(shardings(shapes, mesh), placed)


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    placed: Placed | None = None,
) -> Any:
    """Returns the jitted step (params, optimizer_state, batch) -> (params, optimizer_state, metrics).

    Parameters and optimizer state are donated: the update happens in place. Where the optimizer's state is a
    `carry.Carried`, the batch is read by the memory in it, and the one after it is returned.

    Args:
      graphdef: the model's static part.
      optimizer: any optax transformation; a guarded one (guard.py) leaves everything as it is at a bad step.
      placed: where parameters and optimizer state lie, before and after; None: where they come.
      accumulation: the batch is cut into this many equal parts, gradients summed over a `lax.scan`; parts are
        weighted by the tokens that count in them, so the result is the gradient of the whole batch's mean loss.
    """

    update = optax.with_extra_args_support(optimizer).update

    def loss_and_grads(params: PyTree, batch: Batch) -> tuple[Array, Array, PyTree]:
        def loss(params: PyTree) -> tuple[Array, Array]:
            value, aux = next_token_loss(nnx.merge(graphdef, params), batch)
            return value, aux["tokens"]

        (value, tokens), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, tokens.astype(jnp.float32), grads

    def accumulated(params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        # Every device's share of the batch is cut, so that no sequence moves to another device.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            value, tokens, grads = loss_and_grads(params, part)
            weighted = jax.tree.map(lambda x: tokens.astype(x.dtype) * x, (value, grads))
            return jax.tree.map(jnp.add, total, (weighted, tokens)), None

        like = jax.eval_shape(loss_and_grads, params, jax.tree.map(lambda x: x[0], parts))
        value, tokens, grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        ((value, grads), tokens), _ = jax.lax.scan(add, ((value, grads), tokens), parts)
        return jax.tree.map(lambda x: x / jnp.maximum(tokens, 1).astype(x.dtype), (value, grads))

    def carried(params: PyTree, memory: PyTree, batch: Batch) -> tuple[Array, PyTree, PyTree]:
        def loss(params: PyTree) -> tuple[Array, PyTree]:
            value, _, after = carried_loss(nnx.merge(graphdef, params), batch, memory)
            return value, after

        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, after, grads

    def step(params: PyTree, opt_state: PyTree, batch: Batch) -> tuple[PyTree, PyTree, StepMetrics]:
        memory = after = None
        if isinstance(opt_state, Carried):
            opt_state, memory = opt_state
            loss, after, grads = carried(params, memory, batch)
        elif accumulation == 1:
            loss, _, grads = loss_and_grads(params, batch)
        else:
            loss, grads = accumulated(params, batch)
        if (
            placed is not None
        ):  # summed into the part that each device keeps, not whole on every one
            grads = jax.lax.with_sharding_constraint(grads, placed.params)
        norms = group_norms(grads)
        norm = jnp.sqrt(jnp.sum(jnp.square(norms)))
        updates, opt_state = update(grads, opt_state, params, loss=loss, grad_norm=norm)
        params = optax.apply_updates(params, updates)
        bad, mean = jnp.array(False), jnp.zeros((), jnp.float32)
        if isinstance(opt_state, GuardState):
            bad, mean = opt_state.bad, opt_state.mean_loss
        metrics = StepMetrics(loss, norm, norms, group_norms(updates), bad, mean)
        if memory is not None:
            opt_state = Carried(opt_state, unless_bad(bad, memory, after))
        return params, opt_state, metrics

    results = None if placed is None else (placed.params, placed.opt_state, None)
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=results)


def make_eval_step(graphdef: nnx.GraphDef) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
    """Returns the jitted (params, batch) -> (summed nats, tokens scored)."""

    def step(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        value, aux = next_token_loss(nnx.merge(graphdef, params), batch)
        return value * aux["tokens"], aux["tokens"]

    return jax.jit(step)


def evaluate(
    step: Callable[[PyTree, Batch], tuple[Array, Array]], params: PyTree, batches: Iterable[Batch]
) -> tuple[float, int]:
    """Returns (summed nats, tokens scored) over `batches`."""
    # Sums stay on the device until the end: fetching each would make it wait.
    sums = np.asarray(jax.device_get([step(params, batch) for batch in batches]), np.float64)
    nats, tokens = sums.sum(axis=0)
    return float(nats), int(tokens)
