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
# # Quick start
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/titans-jax/titans-jax/blob/main/experiments/notebooks/quickstart.ipynb)
#
# A small byte-level Titans model, trained in a loop that you can read, and asked to write. The same cells run on a
# CPU, a GPU or a TPU; on two CPU cores they take about two minutes.
#
# The text is the source code of Python's standard library, which is on every machine that can run this. Set the
# environment variable `TITANS_DATA` to a file or a folder to train on something else.

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

from titans_jax import Titans, preset
from titans_jax.data import ByteTokenizer, order0_bits_per_byte, read_documents, split_documents
from titans_jax.inference import Sampling, generate_text, prefill

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
print(f"jax {jax.__version__} on {jax.default_backend()}")

# %% [markdown]
# ## The model
#
# `preset("tiny")` is a MAC ("memory as context"): two blocks of segment-wise attention whose context is what the
# neural memory recalls. `variant=` makes it a MAG, a MAL, an LMM (the memory alone) or a Transformer++.
#
# A call returns the logits and a state. The state holds the memory's fast weights, so that the next call goes on
# where this one stopped.

# %%
model = Titans(preset("tiny", variant="mac"), rngs=nnx.Rngs(0))

graph, params = nnx.split(model)
print(f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters")

tokens = jnp.asarray(list(b"def main("))[None]  # [batch, length]
logits, state = model(tokens)
print("logits", logits.shape)
for path, leaf in jax.tree_util.tree_leaves_with_path(state)[:4]:
    print("state ", jax.tree_util.keystr(path), leaf.shape)

# %% [markdown]
# ## The text
#
# Bytes are the tokens. Some files are held out, and the loss on them is what is reported.

# %%
documents = read_documents(os.environ.get("TITANS_DATA", "stdlib"))
train_documents, valid_documents = split_documents(documents, valid_fraction=0.05)


def as_bytes(documents):
    return np.frombuffer(b"\n".join(d.text for d in documents), np.uint8).astype(np.int32)


train_text, valid_text = as_bytes(train_documents), as_bytes(valid_documents)
print(f"{train_text.size:,} bytes to train on, {valid_text.size:,} held out")


def windows(rng, text, batch, length=256):
    """Random windows of the text, one byte longer than the input: [batch, length + 1]."""
    starts = rng.integers(0, text.size - length - 1, batch)
    return text[starts[:, None] + np.arange(length + 1)]


# %% [markdown]
# ## Training
#
# The outer loop is any optimizer on next-byte cross entropy. The inner loop, the memory's own gradient steps at every
# token, is inside the model, and JAX differentiates through it. Printed are means of the last 30 steps.

# %%
STEPS = max(2, round(150 * SCALE))
schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, STEPS // 10, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99))


def mean_bits(params, windows):
    logits, _ = nnx.merge(graph, params)(windows[:, :-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
    return jnp.mean(nats) / jnp.log(2.0)


@jax.jit
def train_step(params, optimizer_state, windows):
    bits, gradient = jax.value_and_grad(mean_bits)(params, windows)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, bits


rng = np.random.default_rng(0)
optimizer_state = optimizer.init(params)
curve, start = [], time.perf_counter()
for step in range(STEPS):
    batch = windows(rng, train_text, batch=4)
    params, optimizer_state, bits = train_step(params, optimizer_state, batch)
    curve.append(float(bits))
    if step % 30 == 0 or step == STEPS - 1:
        seconds, recent = time.perf_counter() - start, np.mean(curve[-30:])
        print(f"step {step:3}   {recent:.2f} bits per byte   {seconds:4.0f} s (compiling included)")

# %%
held_out = float(jax.jit(mean_bits)(params, windows(rng, valid_text, batch=64)))
order0 = order0_bits_per_byte(valid_text.astype(np.uint8).tobytes())

figure, axes = plt.subplots(figsize=(7, 3.4))
axes.plot(curve, color="tab:blue", linewidth=1, label="training windows")
axes.axhline(held_out, color="tab:orange", label=f"held-out text after training: {held_out:.2f}")
axes.axhline(order0, color="grey", linestyle=":", label=f"byte frequencies alone: {order0:.2f}")
axes.set(title="A tiny MAC learns to read Python", xlabel="training step", ylabel="bits per byte")
axes.set_ylim(bottom=0)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Writing
#
# `prefill` reads a prompt of any length into a stream, block by block and in constant memory. `generate_text` goes on
# from there and yields text as it comes. The memory goes on learning from what it reads and writes.
#
# After so short a training the text has the look of Python and no sense.

# %%
nnx.update(model, params)
tokenizer = ByteTokenizer()
for seed, prompt in enumerate((b"def main(", b"import os\n\nclass ")):
    stream = prefill(model, tokenizer.encode(prompt))
    sampling = Sampling(temperature=0.9, top_p=0.95)
    pieces = generate_text(model, tokenizer, stream, 200, sampling=sampling, seed=seed)
    print(prompt.decode() + "".join(pieces))
    print("\n" + "-" * 60)

# %% [markdown]
# ## Where to go from here
#
# * `make train` trains the same model for longer and compares it with a Transformer++ of equal size.
# * [inside_the_memory](inside_the_memory.ipynb) looks at what the memory does while it reads.
# * [long_context](long_context.ipynb) hides a needle in a long text.
# * [your_own_memory](your_own_memory.ipynb) replaces the memory's network by a function of yours.
