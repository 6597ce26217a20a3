"""The memory alone: what depth, chunk, rule, step and start are worth, without a model around it.

M_0, the three gates (constant over tokens) and an output scale are trained by Adam through the inner loop, so that
each memory is as good as its rule lets it be. The measure is the relative error of what it recalls, |y - v|^2 / |v|^2,
on sequences that it was not trained on. Three tasks:

    pairs   N keys with a value each, written once; then all are asked
    zipf    keys of a Zipf law that come again with noise, values that change now and then; asked just before each write
    map     a random nonlinear function per sequence, from points of an 8-dimensional subspace

    python -m experiments.memory_alone
    python -m experiments.memory_alone --cases="pairs; zipf depth=3 lower_step=1.0; map chunk=256"

Whatever a case does not say is as in `MemoryConfig`. The last line of the first command is the errors of its four
cases. With --output=FILE.jsonl the results go to that file too, and FILE.md has the table of all that it holds.
"""

import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import command
from titans_jax import MemoryConfig
from titans_jax.memory import Gates, MLPNetwork, Rule, fresh_state, memory_scan

SHIPPED = MemoryConfig()
#: The names of the last line, and their cases.
SUMMARY = {
    "zipf_d1_64": "zipf depth=1 chunk=64",
    "zipf_d2_64": "zipf depth=2 chunk=64",
    "zipf_d2_256": "zipf depth=2 chunk=256",
    "zipf_d3_64": "zipf depth=3 chunk=64",
}
BATCH = 8
TRAINING_SETS, TEST_SETS = 24, 6


@dataclasses.dataclass(frozen=True)
class Case:
    """One memory and its task.

    Attributes:
        task: "pairs", "zipf" or "map".
        tokens: written; 0 for the task's own number.
        width: features of keys and values, K.
        network: "mlp" or "residual".
        depth: layers.
        expansion: hidden width over K.
        chunk: tokens that share an anchor.
        anchor, bound, lower_step: of `Rule`.
        cap: largest total step of a token, theta / (1 - eta).
        step: what it begins with.
        alpha: share that is forgotten of each token, at the start; 0: nothing is ever forgotten.
        to_start: whether forgetting goes to M_0, not to zero.
        momentum: whether there is momentum.
        first: factor on the first layer's initial weights; 0 for sqrt(K).
        middle: factor on the initial weights of the layers between.
        zero_last: whether the last layer begins at zero.
        steps: of Adam.
        rate: its learning rate.
        seed: of everything.
    """

    task: str = "zipf"
    tokens: int = 0
    width: int = 32
    network: str = "mlp"
    depth: int = SHIPPED.depth
    expansion: int = SHIPPED.expansion
    chunk: int = SHIPPED.chunk
    anchor: str = SHIPPED.anchor
    bound: str = SHIPPED.bound
    lower_step: float = SHIPPED.lower_step
    cap: float = SHIPPED.step_scale
    step: float = round(SHIPPED.step_scale / (1 + math.exp(-SHIPPED.step_bias)), 4)
    alpha: float = round(1 / (1 + math.exp(-SHIPPED.forget_bias)), 6)
    to_start: bool = SHIPPED.forget_to == "start"
    momentum: bool = True
    first: float = 0.0
    middle: float = 1.675
    zero_last: bool = True
    steps: int = 250
    rate: float = 1e-2
    seed: int = 0


def silu(z: np.ndarray) -> np.ndarray:
    """z sigmoid(z)."""
    return z / (1 + np.exp(-z))


def unit(z: np.ndarray) -> np.ndarray:
    """Vectors of length one."""
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def pairs(r: np.random.Generator, width: int, tokens: int) -> tuple[np.ndarray, ...]:
    """Keys, values, queries, wanted, whether a token is written, whether it is asked."""
    k = unit(silu(r.normal(size=(BATCH, tokens, width))))
    v = silu(r.normal(size=(BATCH, tokens, width)))
    v = v - v.mean()
    k, v = np.concatenate([k, k], 1), np.concatenate([v, v], 1)
    asked = np.arange(2 * tokens) >= tokens
    return k, v, k, v, ~asked, asked


def zipf(r: np.random.Generator, width: int, tokens: int) -> tuple[np.ndarray, ...]:
    """As `pairs`."""
    kinds, change = 48, 0.02
    prototypes = r.normal(size=(BATCH, kinds, width))
    values = silu(r.normal(size=(BATCH, kinds, width)))
    law = 1 / np.arange(1, kinds + 1)
    which = r.choice(kinds, p=law / law.sum(), size=(BATCH, tokens + 1))
    row = np.arange(BATCH)
    noise = 0.3 * r.normal(size=(BATCH, tokens + 1, width))
    k = unit(silu(prototypes[row[:, None], which] + noise))
    changes = r.random((BATCH, tokens + 1)) < change
    new = silu(r.normal(size=(BATCH, tokens + 1, width)))
    v = np.zeros_like(k)
    for t in range(tokens + 1):
        at = which[:, t]
        values[row, at] = np.where(changes[:, t, None], new[:, t], values[row, at])
        v[:, t] = values[row, at]
    v = v - 0.2
    time_ = np.arange(tokens)
    return k[:, :-1], v[:, :-1], k[:, 1:], v[:, 1:], time_ >= 0, time_ >= tokens // 2


def nonlinear_map(r: np.random.Generator, width: int, tokens: int) -> tuple[np.ndarray, ...]:
    """As `pairs`."""
    z = r.normal(size=(BATCH, tokens + 1, 8)) @ r.normal(size=(8, width))
    k = unit(z)
    hidden = np.maximum(k @ r.normal(size=(BATCH, width, 64)), 0)
    v = hidden @ r.normal(size=(BATCH, 64, width))
    v = v - v.mean(1, keepdims=True)
    v = v / v.std()
    time_ = np.arange(tokens)
    return k[:, :-1], v[:, :-1], k[:, 1:], v[:, 1:], time_ >= 0, time_ >= 3 * tokens // 4


TASKS = {"pairs": (pairs, 64), "zipf": (zipf, 256), "map": (nonlinear_map, 512)}


def batches(case: Case, seed: int, count: int) -> list[tuple[jax.Array, ...]]:
    """Sequences of a task."""
    make, tokens = TASKS[case.task]
    r = np.random.default_rng(seed)
    return [
        tuple(
            jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else jnp.bool_)
            for x in make(r, case.width, case.tokens or tokens)
        )
        for _ in range(count)
    ]


def initial_parameters(case: Case) -> dict[str, Any]:
    """M_0, the gates' logits, and the output scale's logarithm."""
    network = MLPNetwork(case.network, case.depth, case.expansion)  # type: ignore[arg-type]
    shapes = network.shapes(case.width)
    keys = jax.random.split(jax.random.key(case.seed), len(shapes))
    weights = [
        jax.random.truncated_normal(key, -2, 2, (1, *shape)) / 0.8796 * shape[0] ** -0.5
        for key, shape in zip(keys, shapes, strict=True)
    ]
    if case.depth > 1:
        weights[0] = weights[0] * (case.first or case.width**0.5)
    for layer in range(1, case.depth - 1):
        weights[layer] = weights[layer] * case.middle
    if case.zero_last:
        weights[-1] = 0.0 * weights[-1]

    def logit(p):
        return jnp.log(p / (1 - p))

    parameters = {
        "weights": tuple(weights),
        "theta": logit(jnp.float32(case.step / case.cap)),
        "eta": jnp.float32(0.0),
        "alpha": logit(jnp.float32(case.alpha or 0.5)),
        "out": jnp.float32(0.0),
    }
    if case.network == "residual":
        parameters["gain"] = jnp.ones((1, 1, case.width))
    return parameters


def relative_error(case: Case, p: dict[str, Any], data: tuple[jax.Array, ...]) -> jax.Array:
    """|y - v|^2 / |v|^2 over the tokens that are asked."""
    k, v, q, wanted, on, asked = data
    tokens = k.shape[1]

    def gate(x):
        return jnp.broadcast_to(x, (BATCH, tokens, 1))

    eta = jax.nn.sigmoid(p["eta"])
    theta = case.cap * jax.nn.sigmoid(p["theta"]) * ((1 - eta) if case.momentum else 1.0)
    gates = Gates.from_values(
        gate(jax.nn.sigmoid(p["alpha"])) if case.alpha else None,
        gate(eta) if case.momentum else None,
        gate(theta) * on[None, :, None],
    )
    rule = Rule(
        MLPNetwork(case.network, case.depth, case.expansion),  # type: ignore[arg-type]
        anchor=case.anchor,  # type: ignore[arg-type]
        bound=case.bound,  # type: ignore[arg-type]
        lower_step=case.lower_step,
        gain=p.get("gain"),
        base=p["weights"] if case.to_start else None,
    )
    q, k, v = (x[:, :, None] for x in (q, k, v))
    state = fresh_state(p["weights"], BATCH)
    y, _ = memory_scan(rule, state, q, k, v, gates, chunk=case.chunk, aligned=True)
    y = y[:, :, 0] * jnp.exp(p["out"])
    return jnp.sum(asked[:, None] * (y - wanted) ** 2) / jnp.sum(asked[:, None] * wanted**2)


def run(case: Case) -> dict[str, Any]:
    """Trains one memory and measures it."""
    started = time.process_time()
    p = initial_parameters(case)
    schedule = optax.cosine_decay_schedule(case.rate, case.steps, 0.1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    state = optimizer.init(p)

    @jax.jit
    def step(p, state, data):
        error, gradient = jax.value_and_grad(functools.partial(relative_error, case))(p, data)
        updates, state = optimizer.update(gradient, state, p)
        return optax.apply_updates(p, updates), state, error

    training = batches(case, case.seed, TRAINING_SETS)
    first = None
    for i in range(case.steps):
        p, state, error = step(p, state, training[i % TRAINING_SETS])
        first = float(error) if first is None else first
    measure = jax.jit(functools.partial(relative_error, case))
    errors = [float(measure(p, data)) for data in batches(case, 99 + case.seed, TEST_SETS)]
    return {
        "case": dataclasses.asdict(case),
        "error": float(np.mean(errors)),
        "untrained": first,
        "step": float(case.cap * jax.nn.sigmoid(p["theta"])),
        "eta": float(jax.nn.sigmoid(p["eta"])),
        "alpha": float(jax.nn.sigmoid(p["alpha"])),
        "out": float(jnp.exp(p["out"])),
        "cpu_seconds": time.process_time() - started,
    }


def parse(text: str) -> Case:
    """A case from ``task field=value ...``."""
    task, *words = text.split()
    fields = {field.name: field.type for field in dataclasses.fields(Case)}
    values: dict[str, Any] = {"task": task}
    for word in words:
        name, value = word.split("=")
        if name not in fields:
            raise ValueError(f"a case has no field {name!r}; it has {', '.join(fields)}")
        kind = fields[name]
        values[name] = value == "1" if kind is bool else kind(value)  # type: ignore[operator]
    return Case(**values)


def page(rows: list[dict[str, Any]]) -> str:
    """The table of results, of each case what differs from the defaults.

    Args:
        rows: from `run`.
    """
    plain = dataclasses.asdict(Case())
    lines = [
        "Relative error of what a memory alone recalls, lower is better, and the total step, eta and alpha of a token "
        "that it learned. Made by `python -m experiments.memory_alone`.",
        "",
        "| task | differs from the defaults | error | step | eta | alpha |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        case = row["case"]
        other = [f"{k} {v}" for k, v in case.items() if k != "task" and v != plain[k]]
        lines.append(
            f"| {case['task']} | {', '.join(other) or 'nothing'} | {row['error']:.3f} | {row['step']:.3f} | "
            f"{row['eta']:.2f} | {row['alpha']:.1e} |"
        )
    defaults = ", ".join(f"{k} {v}" for k, v in plain.items() if k != "task")
    return "\n".join([*lines, "", f"Defaults: {defaults}."]) + "\n"


def define_flags() -> None:
    """The program's flags."""
    flags.DEFINE_string("cases", "; ".join(SUMMARY.values()), "cases, separated by ';'")
    flags.DEFINE_string("output", None, "a file of JSON lines to append to")


def main() -> None:
    """Runs the cases that are asked for."""
    errors = {}
    for text in filter(None, map(str.strip, flags.FLAGS.cases.split(";"))):
        result = run(parse(text))
        errors[text] = result["error"]
        print(
            f"{text:70s} untrained {result['untrained']:6.3f} error {result['error']:.3f} | step "
            f"{result['step']:.4f} eta {result['eta']:.2f} alpha {result['alpha']:.1e} out {result['out']:.2f} "
            f"({result['cpu_seconds']:.0f} s)",
            flush=True,
        )
        if flags.FLAGS.output:
            with open(flags.FLAGS.output, "a") as file:
                file.write(json.dumps(result) + "\n")
    if flags.FLAGS.output:
        results = Path(flags.FLAGS.output)
        rows = [json.loads(line) for line in results.read_text().splitlines()]
        results.with_suffix(".md").write_text(page(rows))
    if errors.keys() >= set(SUMMARY.values()):
        print(" ".join(f"{name}={errors[text]:.3f}" for name, text in SUMMARY.items()))


if __name__ == "__main__":
    command.run(main, define_flags)
