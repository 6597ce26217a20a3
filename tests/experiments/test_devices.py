"""The batch shared out over several CPU devices; in a process of its own, since their number is fixed once."""

import json
import os
import subprocess
import sys

import pytest

from tests.tolerances import OUTPUT_F32

# Many short steps whose gradients are summed over the devices, and independent evaluations behind one another: what
# fills XLA's threads unless each is waited for.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from experiments.training.config import MeshConfig
from experiments.training.devices import split_cpu
from experiments.training.mesh import make_layout

count = int(sys.argv[1])
split_cpu(count)
devices = make_layout(MeshConfig())
batch = {"x": np.linspace(-1, 1, 4 * 32 * 16, dtype=np.float32).reshape(4, 32, 16)}

def loss(w, batch):
    x = batch["x"]
    for _ in range(10):
        x = jnp.tanh(x @ w)
    return (x**2).mean()

step = devices.in_turn(jax.jit(lambda w, batch: w - 0.1 * jax.grad(loss)(w, batch)))
score = devices.in_turn(jax.jit(loss))
w = devices.replicate(jnp.eye(16, dtype=jnp.float32))
for _ in range(200):
    w = step(w, devices.share(batch))
scores = [score(w, devices.share(batch)) for _ in range(200)]
print(json.dumps([len(jax.devices()), float(sum(scores)) / 200]))
"""


def run(count):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.mark.slow
def test_two_devices_train_as_one_and_never_wait_for_ever():
    devices, score = run(1)
    assert devices == 1
    devices, shared = run(2)
    assert devices == 2
    assert abs(shared - score) <= OUTPUT_F32


LOOPS = """
from experiments.training.devices import single_kernel_loops
single_kernel_loops()
import sys
from unittest import mock
from flax import nnx
from titans_jax import Titans, preset
from titans_jax.inference import GREEDY, decode, generate, prefill

for variant in sys.argv[1:]:
    model = Titans(preset("tiny", variant), rngs=nnx.Rngs(0))
    stream = prefill(model, list(range(8)))
    compiled, text = decode._generate, []
    def compile_only(*args, **options):
        text.append(compiled.lower(*args, **options).compile().as_text())
        raise InterruptedError
    with mock.patch.object(decode, "_generate", compile_only):
        try:
            generate(model, stream, 8, GREEDY)
        except InterruptedError:
            pass
    print(variant, "while(" in text[0].split("ENTRY")[1], "xla_cpu_small_call" in text[0])
"""


@pytest.mark.slow
def test_a_small_models_decoding_is_a_single_kernel():
    variants = ["lmm", "mac", "mag", "mal"]
    process = subprocess.run(
        [sys.executable, "-c", LOOPS, *variants],
        env={**os.environ, "XLA_FLAGS": ""},  # users' flags: the tests' own compile otherwise
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines() == [f"{variant} False True" for variant in variants]
