"""The memory against titans-pytorch 0.5.5, an implementation by other people in another framework.

`make parity` runs this in an environment of its own; where torch or titans_pytorch is missing, the
module is skipped. Their layer runs whole, with `chunk_size=1`, `batch_size=1`, one head and no norm;
ours is `memory_scan` on q, k, v and gates made from copies of their projections. Equal then: every
read, the weights after every token, the final momentum, and the gradients of one scalar of all of
these to the input, the projections, the gates' parameters and M_0.

What theirs computes, where it differs from the paper or from us (read in its source, held here):

* loss: theirs is the *mean* over features by default, a sum in Eq. 12 and in ours. Passed in as
  `store_memory_loss_fn`; with theirs, theta is K times smaller than it looks.
* theta = max_lr sigmoid(linear(x)), one per token, with neither (1 - eta) nor c / chunk (ours: the
  layer's `gates_from_logits`, so theirs maps to `Gates.from_values`). It multiplies the loss, so the
  gradient arrives with theta in it.
* eta, alpha = sigmoid(linear(mean of the chunk's inputs)): one momentum step and one forgetting step
  per *chunk*, on the chunk's summed gradient. Ours takes them at every token. The two agree at
  chunk_size=1, and at any chunk size without momentum if the chunk's alpha acts at its first token.
* anchor: `batch_size` tokens share it (our chunk); `batch_size=None` keeps M_0 for the whole call.
* read: token t reads the memory after floor((t + 1) / chunk_size) whole chunks. At chunk_size=1 this is
  our "after" (a token reads its own write); otherwise only a chunk's last token does, and the others
  read the memory of the chunk's start. Ours reads M_t at every t.
* tokens after the last whole chunk are not written but kept for the next call; ours writes them at
  once, with the anchor frozen.
* memory network: GELU (exact) between layers, ours SiLU; hence their MLP as a `NetworkFunction` of
  ours, and our SiLU MLP as a `model` of theirs, which tries our hand-written gradients too.
* M_0 is learned and per head, S_0 = 0; the same in both. Weights are [d_in, d_out] in both.
* their layer has no output projection and no output gate with one head; with several it has an
  output projection and one scalar gate per head.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from titans_jax.memory import Gates, MemoryState, MLPNetwork, Rule, memory_scan

pytest.importorskip("torch")
pytest.importorskip("titans_pytorch")

import titans_pytorch
import torch

BATCH, DIM, EXPANSION, MAX_STEP = 2, 6, 2, 0.2

DTYPES = {"float32": tolerances.PARITY_F32, "float64": tolerances.PARITY_F64}


class SiluMLP(torch.nn.Module):
    """Our `mlp` network as a memory model for them."""

    def __init__(self, depth):
        super().__init__()
        widths = [DIM] + [DIM * EXPANSION] * (depth - 1) + [DIM]
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(torch.randn(din, dout) / din**0.5)
            for din, dout in itertools.pairwise(widths)
        )

    def forward(self, x):
        for layer, weight in enumerate(self.weights):
            x = (torch.nn.functional.silu(x) if layer else x) @ weight
        return x


def gelu_mlp(weights, x):
    """Their `MemoryMLP` as a memory network for us."""
    for layer, weight in enumerate(weights):
        x = (jax.nn.gelu(x, approximate=False) if layer else x) @ weight
    return x


def build(
    dtype, *, depth, activation="gelu", momentum=True, chunk_size=1, batch_size: int | None = 1
):
    """Their layer with random gates, and its parameters as numpy arrays under our names."""
    torch.manual_seed(depth)
    if activation == "gelu":
        model = titans_pytorch.MemoryMLP(DIM, depth=depth, expansion_factor=EXPANSION)
    else:
        model = SiluMLP(depth)
    layer = titans_pytorch.NeuralMemory(
        dim=DIM,
        chunk_size=chunk_size,
        batch_size=batch_size,
        heads=1,
        model=model,
        store_memory_loss_fn=lambda predicted, value: (predicted - value).square().sum(dim=-1),
        default_step_transform_max_lr=MAX_STEP,
        momentum=momentum,
        pre_rmsnorm=False,
        post_rmsnorm=False,
        qk_rmsnorm=False,
        mem_model_norm_add_residual=False,
    ).to(getattr(torch, dtype))
    return layer, named_parameters(layer)


def named_parameters(layer):
    """Their trainable tensors under our names; gates as (matrix, bias)."""

    def affine(linear):
        return (linear.weight, linear.bias)

    named = {
        "q": layer.to_queries.weight,
        "k": layer.to_keys.weight,
        "v": layer.to_values.weight,
        "theta": affine(layer.to_adaptive_step[0]),
        "alpha": affine(layer.to_decay_factor[0]),
        "M_0": tuple(layer.memory_model_parameters),
    }
    if layer.to_momentum is not None:
        named["eta"] = affine(layer.to_momentum[0])
    return named


def numpy_tree(tree):
    return jax.tree.map(lambda leaf: leaf.detach().numpy(), tree)


def inputs(dtype, length):
    """An input and the three random directions that make a scalar of reads, weights, momentum."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(BATCH, length, DIM)).astype(dtype)


def directions(tree):
    """One fixed random direction per array: what the scalar loss weighs it with."""
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), tree)


def pooled(x, chunk):
    """Their gate input: every token gets the mean of its chunk."""
    means = x.reshape(BATCH, -1, chunk, DIM).mean(axis=2)
    return jnp.repeat(means, chunk, axis=1)


def our_gates(parameters, x, chunk):
    """Their gates by their formula. With chunk > 1, alpha acts at the chunk's first token only."""

    def logits(name, source):
        matrix, bias = parameters[name]
        return jax.nn.sigmoid(source @ matrix.T + bias)

    first = (jnp.arange(x.shape[1]) % chunk == 0)[:, None]
    alpha = jnp.where(first, logits("alpha", pooled(x, chunk)), jnp.zeros((), x.dtype))
    eta = logits("eta", pooled(x, chunk)) if "eta" in parameters else None
    return Gates.from_values(alpha, eta, MAX_STEP * logits("theta", x))


def ours(parameters, x, network, *, execution, chunk=1, anchor_every=1):
    """Our memory on copies of their parameters.

    Returns:
      Reads [B, T, D], final weights and final momentum (each a tuple of [B, d_in, d_out]).
    """
    q, k, v = ((x @ parameters[name].T)[:, :, None] for name in "qkv")
    weights = tuple(
        jnp.broadcast_to(matrix[None], (BATCH, *matrix.shape)) for matrix in parameters["M_0"]
    )
    state = MemoryState(
        weights=weights,
        momentum=jax.tree.map(jnp.zeros_like, weights),
        anchor=weights,
        position=jnp.zeros(BATCH, jnp.int32),
    )
    gates = our_gates(parameters, x, chunk)
    y, state = memory_scan(
        Rule(network), state, q, k, v, gates, chunk=anchor_every, execution=execution
    )
    weights, momentum = (
        tuple(matrix[:, 0] for matrix in matrices) for matrices in (state.weights, state.momentum)
    )
    return y[:, :, 0], weights, momentum


def theirs(layer, x):
    """Their layer's reads, final weights, final momentum, and the weights after every token."""
    y, state = layer(x)
    weights, momentum = state.states
    names = layer.memory_model_parameter_names
    order = names if layer.to_momentum is not None else ()
    outputs = (
        y,
        tuple(weights[name] for name in names),
        tuple(momentum[name][0] for name in order),
    )
    return outputs, tuple(state.updates[name] for name in names)


def scalar(outputs, weighing):
    """The sum of all outputs times their directions, in either framework."""
    leaves = zip(jax.tree.leaves(outputs), jax.tree.leaves(weighing), strict=True)
    return sum((leaf * direction).sum() for leaf, direction in leaves)


def compare(dtype, layer, parameters, network, *, length, pick=None, **options):
    """Runs both sides, forward and backward, and compares everything.

    Args:
      pick: maps a side's (reads, weights, momentum) to what is comparable; None compares all.
    """
    pick = pick or (lambda outputs: outputs)
    x = inputs(dtype, length)
    their_x = torch.from_numpy(x).requires_grad_()
    their_outputs = pick(theirs(layer, their_x)[0])
    weighing = directions(numpy_tree(their_outputs))
    scalar(their_outputs, jax.tree.map(torch.from_numpy, weighing)).backward()
    gradient = jax.tree.map(lambda leaf: leaf.grad.numpy(), parameters)

    def loss(our_parameters, our_x):
        outputs = pick(ours(our_parameters, our_x, network, **options))
        return scalar(outputs, weighing), outputs

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, outputs), gradients = step(numpy_tree(parameters), jnp.asarray(x))
    assert jax.tree.leaves(outputs)[0].dtype == dtype
    tolerances.assert_close(outputs, numpy_tree(their_outputs), DTYPES[dtype])
    tolerances.assert_close(gradients, (gradient, their_x.grad.numpy()), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("execution", ["sequential", "associative_scan"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_their_network(dtype, execution, depth):
    """Their `MemoryMLP` as it is; ours takes it as any pure function, gradients by `jax.grad`."""
    layer, parameters = build(dtype, depth=depth)
    compare(dtype, layer, parameters, gelu_mlp, length=6, execution=execution)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("execution", "depth"),
    [("sequential", 1), ("chunked", 1), ("chunked", 2), ("chunked", 4), ("associative_scan", 2)],
)
def test_our_network(dtype, execution, depth):
    """Our SiLU MLP on both sides: the executions with gradients written by hand."""
    layer, parameters = build(dtype, depth=depth, activation="silu")
    network = MLPNetwork("mlp", depth, EXPANSION)
    compare(dtype, layer, parameters, network, length=6, execution=execution)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_momentum(dtype):
    """Their `momentum=False` is our `log_eta=None`."""
    layer, parameters = build(dtype, depth=2, momentum=False)
    # Without momentum theirs has no S, and ours carries an S that nothing touches.
    compare(
        dtype,
        layer,
        parameters,
        gelu_mlp,
        length=6,
        execution="sequential",
        pick=lambda outputs: outputs[:2],
    )


def test_weights_after_every_token():
    """Their weights of all tokens, M_0 first, are our final weights of every prefix."""
    length = 3
    layer, parameters = build("float64", depth=2, activation="silu")
    x = inputs("float64", length)
    with torch.no_grad():
        _, after = theirs(layer, torch.from_numpy(x))
    assert after[0].shape[:2] == (BATCH, length + 1)
    network = MLPNetwork("mlp", 2, EXPANSION)
    run = jax.jit(functools.partial(ours, network=network, execution="sequential"))
    for t in range(length):
        _, weights, _ = run(numpy_tree(parameters), jnp.asarray(x[:, : t + 1]))
        expected = tuple(matrix[:, t + 1].numpy() for matrix in after)
        tolerances.assert_close(weights, expected, tolerances.PARITY_F64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["same", "default"])
@pytest.mark.parametrize("depth", [1, 2])
def test_chunks_without_momentum(dtype, rule, depth):
    """Their `batch_size` is our chunk: the two rules that the speed comparison runs.

    A chunk's last token reads the memory after it in both; the others are not comparable.
    """
    chunk, length = 3, 9
    layer, parameters = build(
        dtype,
        depth=depth,
        activation="silu",
        momentum=False,
        chunk_size=chunk,
        batch_size=chunk if rule == "same" else None,
    )
    compare(
        dtype,
        layer,
        parameters,
        MLPNetwork("mlp", depth, EXPANSION),
        length=length,
        execution="chunked",
        chunk=chunk,
        anchor_every=chunk if rule == "same" else length,
        pick=lambda outputs: (outputs[0][:, chunk - 1 :: chunk], outputs[1]),
    )
