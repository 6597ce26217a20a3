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
# # A needle in a long text
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/titans-jax/titans-jax/blob/main/experiments/notebooks/long_context.ipynb)
#
# A key of four digits is hidden in noise, and asked for at the end. The model is an LMM of one block: the neural
# memory, without any attention. It is trained at 64 and 256 bytes and then asked at lengths it has never seen, with
# the text streamed through `prefill` in constant memory.
#
# This is a toy: the noise is the five sentences of RULER's first needle task repeated, and the needle always has one
# form. On two CPU cores it takes a few minutes.

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

from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.config import RULE_OF_0_1
from titans_jax.inference import GREEDY, generate, prefill

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False})
print(f"jax {jax.__version__} on {jax.default_backend()}")
RULE = RULE_OF_0_1 | {"step_scale": 1.0}  # Eq. 16 as printed: one anchor a chunk

# %% [markdown]
# ## The task

# %%
NOISE = (
    b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
QUESTION, DIGITS = b"KEY=", 4


def needle_text(rng, length, depth=None):
    """Noise with a needle at `depth` (0: start, 1: end; None: anywhere), the question, and the answer."""
    answer = "".join(rng.choice(list("0123456789"), DIGITS)).encode()
    needle = QUESTION + answer + b". "
    size = length - len(needle) - len(QUESTION) - DIGITS
    first = rng.integers(len(NOISE))
    noise = (NOISE * (size // len(NOISE) + 2))[first : first + size]
    cut = round(size * (rng.random() if depth is None else depth))
    return noise[:cut], needle, noise[cut:], QUESTION, answer


def needle_batch(rng, batch, length):
    texts = [b"".join(needle_text(rng, length)) for _ in range(batch)]
    return np.stack([np.frombuffer(text, np.uint8) for text in texts]).astype(np.int32)


print(b"".join(needle_text(np.random.default_rng(4), 200, depth=0.3)).decode())

# %% [markdown]
# ## Training at short lengths
#
# The loss is on the four digits of the answer only. Training starts at 64 bytes, where the needle is a larger part of
# the text and so easier to find.

# %%
config = TitansConfig(
    variant="lmm",
    vocab_size=128,
    dim=64,
    num_layers=1,
    feed_forward=128,
    persistent_tokens=0,
    memory=MemoryConfig(num_heads=1, depth=1, chunk=16, **RULE),
)
model = Titans(config, rngs=nnx.Rngs(0))
graph, params = nnx.split(model)
STAGES = ((64, 32, max(2, round(500 * SCALE))), (256, 16, max(2, round(160 * SCALE))))
TOTAL = sum(steps for *_, steps in STAGES)
schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, 20, max(TOTAL, 21), 1e-3)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def answer_loss(params, tokens):
    logits, _ = nnx.merge(graph, params)(tokens[:, :-1])
    logits, answers = logits[:, -DIGITS:], tokens[:, -DIGITS:]
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, answers))
    return loss, jnp.mean(logits.argmax(-1) == answers)


@jax.jit
def train_step(params, optimizer_state, tokens):
    (_, right), gradient = jax.value_and_grad(answer_loss, has_aux=True)(params, tokens)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, right


rng = np.random.default_rng(0)
optimizer_state, curve = optimizer.init(params), []
for length, batch, steps in STAGES:
    for _ in range(steps):
        tokens = needle_batch(rng, batch, length)
        params, optimizer_state, right = train_step(params, optimizer_state, tokens)
        curve.append(float(right))
    print(f"length {length:3}: {np.mean(curve[-20:]):.1%} of the digits right in the last 20 steps")
nnx.update(model, params)

# %%
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(np.arange(1, TOTAL + 1), 100 * np.array(curve), color="tab:blue", linewidth=1)
axes.axvline(STAGES[0][2], color="grey", linestyle="--", linewidth=1)
axes.text(STAGES[0][2] - 4, 3, "64 bytes", ha="right")
axes.text(STAGES[0][2] + 4, 3, "256 bytes", ha="left")
axes.axhline(10, color="grey", linestyle=":", label="guessing")
axes.set(
    title="Training on the needle task", xlabel="step", ylabel="digits right (%)", ylim=(0, 103)
)
axes.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# ## Asking at longer lengths, learning or not
#
# `prefill` takes a list of texts, and `freeze_memory=True` reads without writing. Three readers see the same texts:
#
# * **learning**: the memory writes at every byte, as in training;
# * **frozen**: it never writes, so that nothing can get from the needle to the question;
# * **frozen in the noise**: it writes up to the end of the needle and from the question on, but not in the noise between.
#
# Answers are generated greedily, and right only if all four digits are. The needle lies at depths spread evenly.


# %%
def tokens_of(parts):
    return np.frombuffer(b"".join(parts), np.uint8).astype(np.int32)


def ask(texts, reader):
    """Share of the texts whose answer is wholly right."""
    before = [tokens_of(text[:2]) for text in texts]  # up to the needle's end
    noise = [tokens_of(text[2:3]) for text in texts]
    question = [tokens_of([QUESTION])] * len(texts)
    frozen = reader == "frozen"
    stream = prefill(model, before, freeze_memory=frozen)
    stream = prefill(model, noise, stream, freeze_memory=reader != "learning")
    stream = prefill(model, question, stream, freeze_memory=frozen)
    answers = generate(model, stream, DIGITS, GREEDY, freeze_memory=frozen).tokens
    right = [bytes(a.tolist()) == text[-1] for a, text in zip(answers, texts, strict=True)]
    return np.mean(right)


READERS = ("learning", "frozen", "frozen in the noise")
LENGTHS = [256, 1024, 4096, 16384] if SCALE >= 1 else [256, 512]
ASKED = 40 if SCALE >= 1 else 4
results = {reader: [] for reader in READERS}
for length in LENGTHS:
    rng = np.random.default_rng(length)
    texts = [needle_text(rng, length, depth) for depth in np.linspace(0, 1, ASKED)]
    for reader in READERS:
        results[reader].append(ask(texts, reader))
print("answers right at bytes  " + "   ".join(f"{length:6,}" for length in LENGTHS))
for reader, shares in results.items():
    print(f"{reader:24}" + "   ".join(f"{share:6.1%}" for share in shares))

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
for reader, style in zip(READERS, ("o-", "s:", "^--"), strict=True):
    axes.plot(LENGTHS, 100 * np.array(results[reader]), style, label=reader)
axes.axvspan(LENGTHS[0] * 0.8, 256, color="lightgrey", alpha=0.5, label="trained length")
axes.set_xscale("log", base=2)
axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
axes.set(
    title=f"The needle, asked for beyond the trained length ({ASKED} texts each)",
    xlabel="length of the text (bytes)",
    ylabel="answers right (%)",
    ylim=(-3, 103),
)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# A frozen memory cannot answer: what it recalls is $M_0$, the same for every text. The one that learns still answers
# mostly right at four times the trained length, and is lost at sixteen times.
#
# Not writing the noise after the needle brings back some of what is lost. The rest was not overwritten after the
# needle: the noise before it has already led the memory to where training at 256 bytes never led it.
#
# ## Constant memory, constant time per token
#
# The state after any number of tokens has the same size. A Transformer's cache grows with every token. The time per
# byte does not grow either; the first piece is short, so that the call itself weighs more.

# %%
CHECKS = [2048, 8192, 32768, 131072] if SCALE >= 1 else [2048, 4096]
stream, read = None, 0
for _ in range(2):  # compiles
    stream = prefill(model, tokens_of([NOISE * 6])[:512], stream)
    read += 512
per_token, sizes = [], []
for check in CHECKS:
    piece = tokens_of([NOISE * (check // len(NOISE) + 1)])[: check - read]
    start = time.perf_counter()
    stream = jax.block_until_ready(prefill(model, piece, stream))
    per_token.append(1e6 * (time.perf_counter() - start) / (check - read))
    sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(stream)))
    read = check

layers, dim = config.num_layers, config.dim
cache = [2 * layers * dim * 4 * check for check in CHECKS]  # keys and values in float32
print("bytes read   state (KiB)   a Transformer's cache (KiB)   microseconds per byte")
for check, size, other, cost in zip(CHECKS, sizes, cache, per_token, strict=True):
    print(f"{check:10,}   {size / 1024:11.1f}   {other / 1024:27,.0f}   {cost:21.1f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].loglog(CHECKS, np.array(sizes) / 1024, "o-", label="this model's state")
axes[0].loglog(
    CHECKS,
    np.array(cache) / 1024,
    "s--",
    color="grey",
    label="keys and values of\nequal layers and width",
)
axes[0].set(title="Memory", xlabel="bytes read", ylabel="KiB")
axes[0].legend(frameon=False)
axes[1].semilogx(CHECKS, per_token, "o-")
axes[1].set(title="Time", xlabel="bytes read", ylabel="microseconds per byte", ylim=(0, None))
figure.tight_layout()
plt.show()
