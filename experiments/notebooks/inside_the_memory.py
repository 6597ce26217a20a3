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
# # Inside the memory
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/titans-jax/titans-jax/blob/main/experiments/notebooks/inside_the_memory.ipynb)
#
# The memory of Titans is a small network whose weights $M$ change while it reads. At every token it takes a gradient
# step on how badly it recalls the token's value from the token's key:
#
# $$u_t = \nabla_M \lVert M(k_t) - v_t \rVert^2 \qquad
#   S_t = \eta_t S_{t-1} - \theta_t u_t \qquad
#   M_t = (1 - \alpha_t) M_{t-1} + S_t \qquad
#   y_t = M_t(q_t)$$
#
# `NeuralMemory.diagnostics` reports what happens at each token: the loss and the norm of $u_t$ (the
# "surprise"), the three gates, and the norms of $M_t$ and $S_t$. This notebook trains a memory on associative
# recall and looks at how it forgets, then watches another one read Python. Two CPU cores take about three minutes.

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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from titans_jax import MemoryConfig, NeuralMemory, Titans, TitansConfig
from titans_jax.config import RULE_OF_0_1
from titans_jax.data import read_documents

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
print(f"jax {jax.__version__} on {jax.default_backend()}")
RULE = RULE_OF_0_1 | {"step_scale": 1.0}  # Eq. 16 as printed: one anchor a chunk

# %% [markdown]
# ## 1. Associative recall
#
# A sequence shows some pairs, each as one token, and then asks for the values of the same keys in another order:
#
#     (k7, v2) (k3, v9) (k1, v5) ... (k1, ?) (k7, ?) (k3, ?) ...
#
# Keys, values and their pairing are drawn anew for every sequence, so nothing of it can be learned by the slow
# parameters. They can only learn how to use the memory: what of a token is the key, what is the value, and when to
# write. There is no attention and no convolution; all that passes from one token to another passes through $M$.

# %%
SYMBOLS, DIM = 64, 64
ASK = SYMBOLS  # in place of a value: "which was it?"


class Recall(nnx.Module):
    def __init__(self, rngs):
        self.keys = nnx.Embed(SYMBOLS, DIM // 2, rngs=rngs)
        self.values = nnx.Embed(SYMBOLS + 1, DIM // 2, rngs=rngs)
        config = MemoryConfig(num_heads=1, depth=2, chunk=8, conv_width=0, **RULE)
        self.memory = NeuralMemory(DIM, config, rngs=rngs)
        self.head = nnx.Linear(DIM, SYMBOLS, rngs=rngs)

    def tokens(self, keys, values):
        x = jnp.concatenate([self.keys(keys), self.values(values)], axis=-1)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)

    def __call__(self, keys, values):
        y, _ = self.memory(self.tokens(keys, values))
        return self.head(y)


def recall_batch(rng, batch, pairs):
    """Keys and values of all tokens, the answers at the last `pairs` of them, and which pair each asks for."""
    keys = np.argsort(rng.random((batch, SYMBOLS)), axis=1)[:, :pairs]
    values = rng.integers(0, SYMBOLS, (batch, pairs))
    order = np.argsort(rng.random((batch, pairs)), axis=1)
    asked, answers = (np.take_along_axis(x, order, axis=1) for x in (keys, values))
    keys = np.concatenate([keys, asked], axis=1)
    values = np.concatenate([values, np.full_like(asked, ASK)], axis=1)
    return keys, values, answers, order


graph, params = nnx.split(Recall(nnx.Rngs(0)))
STEPS = max(2, round(300 * SCALE))
schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, STEPS // 10, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def recall_loss(params, keys, values, answers):
    logits = nnx.merge(graph, params)(keys, values)[:, -answers.shape[1] :]
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, answers))
    return loss, logits.argmax(-1) == answers


@jax.jit
def recall_step(params, optimizer_state, *batch):
    (_, right), gradient = jax.value_and_grad(recall_loss, has_aux=True)(params, *batch)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, jnp.mean(right)


rng = np.random.default_rng(0)
optimizer_state, curve = optimizer.init(params), []
for _ in range(STEPS):
    *batch, _ = recall_batch(rng, 32, pairs=16)
    params, optimizer_state, accuracy = recall_step(params, optimizer_state, *batch)
    curve.append(float(accuracy))
last = np.mean(curve[-20:])
print(f"accuracy of the last 20 steps: {last:.1%} (guessing: {1 / SYMBOLS:.1%})")

# %%
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(np.arange(1, STEPS + 1), 100 * np.array(curve), color="tab:blue", linewidth=1)
axes.axhline(100 / SYMBOLS, color="grey", linestyle=":", label="guessing")
axes.set(
    title="Recall of 16 new associations per sequence", xlabel="training step", ylabel="right (%)"
)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 2. Surprise, gates and norms while it writes and is asked
#
# One sequence, token by token. At each written pair the memory is surprised: it cannot know what the value will be.
# When the pair is written a second time, the surprise should be smaller, because the memory recalls it. So here the
# pairs are shown twice before they are asked for, which never happened in training.
#
# A gradient is always taken at the memory of the chunk's start (the dotted lines), so a chunk's tokens are not less
# surprising because of one another.

# %%
model = nnx.merge(graph, params)
pairs, chunk = 16, model.memory.config.chunk
keys, values, answers, order = recall_batch(rng, 64, pairs)
twice = [np.concatenate([x[:, :pairs], x], axis=1) for x in (keys, values)]


@jax.jit
def diagnose(params, keys, values):
    model = nnx.merge(graph, params)
    return model.memory.diagnostics(model.tokens(keys, values))


diagnostics = diagnose(params, *twice)
# mean over sequences; one head
mean = jax.tree.map(lambda x: np.asarray(x).mean(axis=(0, 2)), diagnostics)
time = np.arange(twice[0].shape[1])

figure, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True)
axes[0].plot(time, mean.loss, "o-", markersize=3, label=r"loss $\|M(k_t)-v_t\|^2$")
axes[0].plot(time, mean.gradient_norm, "o-", markersize=3, label=r"gradient norm $\|u_t\|$")
axes[0].set(ylabel="surprise", title="What happens at each token (mean of 64 sequences)")
axes[0].set_ylim(0, 1.25 * mean.loss.max())
for name, symbol in (
    ("alpha", r"$\alpha$ forget"),
    ("eta", r"$\eta$ momentum"),
    ("theta", r"$\theta$ step"),
):
    axes[1].semilogy(time, getattr(mean, name), "o-", markersize=3, label=symbol)
axes[1].set(ylabel="gates (log scale)")
axes[2].plot(time, mean.weights_norm, "o-", markersize=3, label=r"$\|M_t\|$")
axes[2].plot(time, mean.momentum_norm, "o-", markersize=3, label=r"$\|S_t\|$")
axes[2].set(ylabel="norms", xlabel="token")
for ax in axes:
    for boundary in range(chunk, len(time), chunk):
        ax.axvline(boundary - 0.5, color="lightgrey", linestyle=":", zorder=0)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
for start, label in ((0, "first showing"), (pairs, "second showing"), (2 * pairs, "asked")):
    axes[0].annotate(
        label,
        (start + pairs / 2 - 0.5, 1.0),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="top",
    )
figure.tight_layout()
plt.show()

print(f"loss at the first showing  {mean.loss[:pairs].mean():.3f}")
print(f"loss at the second showing {mean.loss[pairs : 2 * pairs].mean():.3f}")
print(f"step at a pair             {mean.theta[: 2 * pairs].mean():.4f}")
print(f"step at a question         {mean.theta[2 * pairs :].mean():.4f}")

# %% [markdown]
# ## 3. What is forgotten
#
# The memory has a fixed size. With more pairs than in training, older ones suffer from those written after them. The
# decay $1 - \alpha$ has little part in it: in the picture above $\alpha$ is far below a thousandth. It is later keys
# that are not orthogonal to earlier ones. Here is the share of right answers by how many pairs were written after
# the one that is asked for.

# %%
right_at = jax.jit(lambda *batch: recall_loss(*batch)[1])
figure, axes = plt.subplots(figsize=(7, 3.4))
for pairs, colour in ((16, "tab:green"), (32, "tab:blue"), (64, "tab:red")):
    right, age = [], []
    for _ in range(max(1, round(6 * SCALE))):
        keys, values, answers, order = recall_batch(rng, 64, pairs)
        right.append(np.asarray(right_at(params, keys, values, answers)))
        age.append(pairs - 1 - order)
    right, age = np.concatenate(right).ravel(), np.concatenate(age).ravel()
    bins = np.arange(0, pairs, 4)
    share = [100 * right[(age >= low) & (age < low + 4)].mean() for low in bins]
    axes.plot(
        bins + 1.5,
        share,
        "o-",
        markersize=4,
        color=colour,
        label=f"{pairs} pairs: {right.mean():.1%}",
    )
axes.set(
    title="An association is lost to those written after it",
    xlabel="pairs written after the one asked for",
    ylabel="right (%)",
    ylim=(0, 103),
)
axes.legend(frameon=False, title="in the sequence")
plt.show()

# %% [markdown]
# ## 4. What surprises it in a text
#
# Now a memory in a language model: an LMM of one block, memory alone, trained for a moment on the bytes of Python's
# standard library (or `TITANS_DATA`). Then the memory's surprise at each byte of a piece of code that it has not seen.
#
# This is the memory's own, inner surprise: how badly it maps this byte's key to this byte's value. It is not the
# model's loss at predicting the next byte.

# %%
text = b"\n".join(d.text for d in read_documents(os.environ.get("TITANS_DATA", "stdlib")))
text = np.frombuffer(text, np.uint8).astype(np.int32)
config = TitansConfig(
    variant="lmm",
    vocab_size=256,
    dim=64,
    num_layers=1,
    feed_forward=128,
    persistent_tokens=0,
    memory=MemoryConfig(num_heads=1, depth=2, chunk=16, **RULE),
)
graph, params = nnx.split(Titans(config, rngs=nnx.Rngs(0)))
STEPS = max(2, round(200 * SCALE))
schedule = optax.warmup_cosine_decay_schedule(0.0, 8e-3, STEPS // 10, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def mean_bits(params, windows):
    logits, _ = nnx.merge(graph, params)(windows[:, :-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
    return jnp.mean(nats) / jnp.log(2.0)


@jax.jit
def text_step(params, optimizer_state, windows):
    bits, gradient = jax.value_and_grad(mean_bits)(params, windows)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, bits


optimizer_state, curve = optimizer.init(params), []
for _ in range(STEPS):
    starts = rng.integers(0, text.size - 257, 8)
    params, optimizer_state, bits = text_step(
        params, optimizer_state, text[starts[:, None] + np.arange(257)]
    )
    curve.append(float(bits))
print(f"{np.mean(curve[:5]):.2f} bits per byte at the start, {np.mean(curve[-20:]):.2f} at the end")

# %% [markdown]
# The layers of a model are one block with a leading axis of layers, so a memory is taken out with an index. What the
# model's `LongTermMemory` does before it, embedding and norm, is repeated here.

# %%
SNIPPET = b'''
def area(width, height):
    """Area of a rectangle."""
    return width * height

def area(width, height):
    """Area of a rectangle."""
    return width * height

def zqx(width, height):
    """Jump! 77 foxes, 0xBEEF."""
    return width * height
'''
model = nnx.merge(graph, params)
block = jax.tree.map(lambda p: p[0], nnx.split(model.layers)[1])
mixer = nnx.merge(nnx.split(model.layers)[0], block).mixer
x = mixer.norm(model.embedding[...][np.frombuffer(SNIPPET, np.uint8)][None])
diagnostics = mixer.memory.diagnostics(x)
of_text = jax.tree.map(lambda leaf: np.asarray(leaf)[0].mean(axis=-1), diagnostics)

figure, axes = plt.subplots(figsize=(9, 4.2))
lines = SNIPPET.decode().split("\n")
low, high = np.percentile(of_text.loss, [2, 98])
position = 0
for row, line in enumerate(lines):
    for column, character in enumerate(line + "\u21b5"):
        if position >= len(SNIPPET):
            break
        shade = np.clip((of_text.loss[position] - low) / (high - low), 0, 1)
        axes.add_patch(plt.Rectangle((column, -row - 0.5), 1, 1, color=plt.cm.YlOrRd(shade * 0.85)))
        axes.text(
            column + 0.5, -row, character, ha="center", va="center", family="monospace", fontsize=9
        )
        position += 1
axes.set(
    xlim=(0, max(map(len, lines)) + 1),
    ylim=(-len(lines) + 0.5, 0.6),
    title="Surprise of the memory at each byte",
)
axes.axis("off")
colours = plt.cm.ScalarMappable(plt.Normalize(low, high), plt.cm.YlOrRd)
figure.colorbar(colours, ax=axes, label=r"loss $\|M(k_t)-v_t\|^2$", fraction=0.03)
plt.show()

# %%
figure, axes = plt.subplots(3, 1, figsize=(9, 6.5), sharex=True)
time = np.arange(len(SNIPPET))
axes[0].bar(time, of_text.loss, width=1.0, color="tab:red")
axes[0].set(ylabel="loss", title="The memory while it reads the code above")
axes[1].semilogy(time, of_text.alpha, linewidth=1, label=r"$\alpha$ forget")
axes[1].semilogy(time, of_text.eta, linewidth=1, label=r"$\eta$ momentum")
axes[1].semilogy(time, of_text.theta, linewidth=1, label=r"$\theta$ step")
axes[1].set(ylabel="gates (log scale)")
axes[2].plot(time, of_text.weights_norm, label=r"$\|M_t\|$")
axes[2].plot(time, of_text.momentum_norm, label=r"$\|S_t\|$")
axes[2].set(ylabel="norms", xlabel="byte")
functions = [i for i in range(len(SNIPPET)) if SNIPPET.startswith(b"def ", i)]
for ax in axes:
    for i in functions:
        ax.axvline(i, color="grey", linestyle=":", linewidth=1)
for ax in axes[1:]:
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
figure.tight_layout()
plt.show()

ends = [*functions[1:], len(SNIPPET)]
for name, first, end in zip(("first", "again", "new"), functions, ends, strict=True):
    print(f"{name:6} function: mean loss {of_text.loss[first:end].mean():.3f}")

# %% [markdown]
# The second function repeats the first, the third begins alike and says other things. The mean losses above say how
# much less a repetition surprises; they come from a model trained for a minute, and another seed gives other numbers.
