"""What JAX is told about a CPU; in processes of their own, since it is told once."""

import json
import os
import subprocess
import sys

import numpy as np
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


def run(program, *arguments, **environment):
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.mark.slow
def test_two_devices_train_as_one_and_never_wait_for_ever():
    devices, score = run(PROGRAM, "1")
    assert devices == 1
    devices, shared = run(PROGRAM, "2")
    assert devices == 2
    assert abs(shared - score) <= OUTPUT_F32


GENERATE = """
import json, sys
from unittest import mock
from experiments.training import devices

if sys.argv[1] == "many":
    devices.SMALL_LOOP = 0
devices.single_kernel_loops()

from flax import nnx
from titans_jax import Titans, preset
from titans_jax.inference import GREEDY, decode, generate, prefill

compiled, kernels = decode._generate, []

def spy(*args, **options):
    program = compiled.lower(*args, **options).compile().as_text()
    kernels.append("xla_cpu_small_call" in program and "while(" not in program.split("ENTRY")[1])
    return compiled(*args, **options)

found = {}
for variant in sys.argv[2:]:
    model = Titans(preset("tiny", variant, dim=32, num_layers=1), rngs=nnx.Rngs(0))
    stream = prefill(model, list(range(40)))
    with mock.patch.object(decode, "_generate", spy):
        done = generate(model, stream, 70, GREEDY)  # over the ends of chunks and of the window
    found[variant] = [kernels.pop(), done.tokens.tolist(), done.stream.logits.tolist()]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_small_model_generates_the_same_in_a_single_kernel():
    variants = ["lmm", "mag"]  # without a cache, and with a ring

    # Users' flags: the tests' own compile otherwise.
    single, many = (run(GENERATE, how, *variants, XLA_FLAGS="") for how in ("single", "many"))
    for variant in variants:
        kernel, tokens, logits = single[variant]
        assert kernel, variant
        assert not many[variant][0], variant
        assert tokens == many[variant][1], variant
        np.testing.assert_allclose(logits, many[variant][2], atol=OUTPUT_F32, err_msg=variant)
