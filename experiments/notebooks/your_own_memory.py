# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own memory
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/titans-jax/titans-jax/blob/main/experiments/notebooks/your_own_memory.ipynb)
#
# The paper leaves the architecture of the memory open: $M$ may be any network. Here it is any pure function. You write
# how it maps a key to a value, and how its weights start; the library takes the gradients with `jax.grad`, runs the
# recurrence in parallel within each chunk, and lets you train through it. On two CPU cores this takes about two
# minutes.

# %%
import importlib.util
import os
import shutil

if importlib.util.find_spec("titans_jax") is None:  # in Colab, for example
    extra = ""
    if (
        importlib.util.find_spec("jax") is None
    ):  # an installed JAX stays, with what it has for its GPU or TPU
        tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
        extra = "[cuda]" if shutil.which("nvidia-smi") else "[tpu]" if tpu else ""
    repository = f"titans-jax{extra} @ git+https://github.com/titans-jax/titans-jax"
    # %pip install --quiet "{repository}" matplotlib

SCALE = float(os.environ.get("NOTEBOOK_SCALE", "1"))  # below 1: fewer training steps

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from titans_jax import MemoryConfig, NeuralMemory
from titans_jax.config import RULE_OF_0_1

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
print(f"jax {jax.__version__} on {jax.default_backend()}")

# %% [markdown]
# ## A memory as a function
#
# `(weights, x) -> y` for one head and one vector: no batch, no time, no state. The weights are any pytree; here a dict
# of three matrices, a gated MLP as in the feed-forward layers of today's Transformers. Its hidden width of 43 gives it
# nearly the size of the built-in MLP, whose hidden width is 64.

# %%
DIM, HIDDEN = 32, 43


def gated_mlp(weights, x):
    return (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]


def init_gated_mlp(key):
    """The start of one head's fast weights, M_0. It becomes a parameter that is trained with the others."""
    gate, up, down = jax.random.split(key, 3)
    return {
        "gate": jax.random.normal(gate, (DIM, HIDDEN)) * DIM**-0.5,
        "up": jax.random.normal(up, (DIM, HIDDEN)) * DIM**-0.5,
        "down": jax.random.normal(down, (HIDDEN, DIM)) * HIDDEN**-0.5,
    }


SETTINGS = RULE_OF_0_1 | {"num_heads": 1, "chunk": 8, "conv_width": 0, "step_scale": 1.0}


def make_memory(kind, execution="auto"):
    if kind == "gated MLP":
        config = MemoryConfig(network=gated_mlp, execution=execution, **SETTINGS)
        return NeuralMemory(DIM, config, init_network=init_gated_mlp, rngs=nnx.Rngs(0))
    config = MemoryConfig(network="mlp", depth=2, expansion=2, execution=execution, **SETTINGS)
    return NeuralMemory(DIM, config, rngs=nnx.Rngs(0))


for kind in ("gated MLP", "built-in MLP"):
    memory = make_memory(kind)
    shapes = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(memory.init_state(1).memory.weights)
    }
    print(f"{kind}: {sum(np.prod(shape) for shape in shapes.values()):,} fast weights {shapes}")

# %% [markdown]
# ## Two executions, one result
#
# `sequential` is the recurrence as it stands in the paper, one token after another. `associative_scan` is what "auto"
# takes for a function: the gradients of a chunk's tokens are taken side by side at the memory of the chunk's start,
# and the linear recurrence over them is a parallel scan. It keeps $M_t$ for every token of one chunk, so it is
# meant for small networks.
#
# Both must give the same numbers, outputs and gradients. Which is faster depends on the machine: a parallel scan does
# more work in fewer steps, which pays where there are many more cores than a CPU has.

# %%
x = jax.random.normal(jax.random.key(0), (4, 128, DIM))
outputs, gradients = {}, {}
for execution in ("sequential", "associative_scan"):
    graph, params = nnx.split(make_memory("gated MLP", execution))

    def loss(params, x, graph=graph):
        y, _ = nnx.merge(graph, params)(x)
        return jnp.mean(jnp.sin(y)), y

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    jax.block_until_ready(step(params, x))  # compiles
    start = time.perf_counter()
    (_, y), gradient = jax.block_until_ready(step(params, x))
    print(f"{execution:16}   {1e3 * (time.perf_counter() - start):6.1f} ms forward and backward")
    outputs[execution], gradients[execution] = y, gradient


def difference(a, b):
    """The largest difference of two trees' leaves, over the largest number in the leaf."""
    errors = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)), a, b)
    return max(float(error) for error in jax.tree.leaves(errors))


print(f"outputs differ by   {difference(*outputs.values()):.1e}")
print(f"gradients differ by {difference(*gradients.values()):.1e} (float32)")

# %% [markdown]
# ## Training through it
#
# The task is that of [inside_the_memory](inside_the_memory.ipynb): a sequence shows twelve pairs of symbols, one
# token each, drawn anew every time, and then asks for the value of each key. Both networks get the same batches, the
# same optimizer and the same number of steps.

# %%
SYMBOLS, PAIRS = 32, 12
ASK = SYMBOLS


class Recall(nnx.Module):
    def __init__(self, kind):
        rngs = nnx.Rngs(1)
        self.keys = nnx.Embed(SYMBOLS, DIM // 2, rngs=rngs)
        self.values = nnx.Embed(SYMBOLS + 1, DIM // 2, rngs=rngs)
        self.memory = make_memory(kind)
        self.head = nnx.Linear(DIM, SYMBOLS, rngs=rngs)

    def __call__(self, keys, values):
        x = jnp.concatenate([self.keys(keys), self.values(values)], axis=-1)
        y, _ = self.memory(x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6))
        return self.head(y)


def recall_batch(rng, batch):
    keys = np.argsort(rng.random((batch, SYMBOLS)), axis=1)[:, :PAIRS]
    values = rng.integers(0, SYMBOLS, (batch, PAIRS))
    order = np.argsort(rng.random((batch, PAIRS)), axis=1)
    asked, answers = (np.take_along_axis(x, order, axis=1) for x in (keys, values))
    keys = np.concatenate([keys, asked], axis=1)
    return keys, np.concatenate([values, np.full_like(asked, ASK)], axis=1), answers


STEPS = max(2, round(300 * SCALE))
schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, STEPS // 10, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def train(kind):
    """Trains one model; returns the loss and the accuracy at every step."""
    graph, params = nnx.split(Recall(kind))

    def loss(params, keys, values, answers):
        logits = nnx.merge(graph, params)(keys, values)[:, -PAIRS:]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
        return jnp.mean(nats), jnp.mean(logits.argmax(-1) == answers)

    @jax.jit
    def step(params, optimizer_state, *batch):
        metrics, gradient = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, metrics

    rng = np.random.default_rng(0)
    optimizer_state, history = optimizer.init(params), []
    for _ in range(STEPS):
        params, optimizer_state, metrics = step(params, optimizer_state, *recall_batch(rng, 32))
        history.append([float(m) for m in metrics])
    return np.array(history).T


curves = {kind: train(kind) for kind in ("gated MLP", "built-in MLP")}
for kind, (loss, accuracy) in curves.items():
    print(
        f"{kind:13} last 20 steps: loss {loss[-20:].mean():.4f}, right {accuracy[-20:].mean():.1%}"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for kind, (loss, accuracy) in curves.items():
    axes[0].semilogy(np.arange(1, STEPS + 1), loss, linewidth=1, label=kind)
    axes[1].plot(np.arange(1, STEPS + 1), 100 * accuracy, linewidth=1, label=kind)
axes[0].set(title="Loss", xlabel="training step", ylabel="nats per answer (log scale)")
axes[1].set(
    title=f"Recall of {PAIRS} pairs", xlabel="training step", ylabel="right (%)", ylim=(0, 103)
)
axes[1].legend(frameon=False, loc="lower right")
figure.tight_layout()
plt.show()

# %% [markdown]
# One task, one seed, one learning rate: this shows that a function of yours trains as the built-in network does, not
# which of the two is better.
#
# ## What to know
#
# * The function must be pure and must map a vector to one of the same size. What it takes from outside, such as a
#   constant, is not trained.
# * `bound="gradient"`, the default, divides a token's gradient by its curvature where that exceeds one. It needs
#   nothing but the gradient, so it protects your network too.
# * The built-in networks have a faster form, in which no $M_t$ exists at all (`execution="chunked"`, and `"fused"` on
#   accelerators); a function runs by `"associative_scan"` or `"sequential"`. A single token is always read by the latter.
# * Language models (`Titans`) take built-in networks only. A `NeuralMemory` layer takes a function.
