"""Attention by splash attention: interpreted, it equals XLA's; it compiles for an absent TPU; what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.pallas_kernels.tpu_compile import TOPOLOGIES
from tests.tolerances import GRAD_F32, OUTPUT_F32, STATE_F32, assert_close
from titans_jax.layers import attention_tpu
from titans_jax.layers.attention import (
    full_attention,
    init_full_state,
    init_window_state,
    segment_attention,
    sliding_window_attention,
)
from titans_jax.layers.rotary import rotate
from titans_jax.placement import target_platform

BATCH, HEADS, HEAD_DIM, BASE = 2, 1, 128, 1e4
LENGTH, WINDOW = 150, 70  # no multiples of each other, nor of a block


@pytest.fixture(autouse=True)
def in_32_bits():
    with jax.enable_x64(False):
        yield


@pytest.fixture
def by_kernel(monkeypatch):
    """Has the kernel run on this CPU from here on."""

    def switch():
        interpreted = functools.partial(splash.make_splash_mha, interpret=True)
        monkeypatch.setattr(splash, "make_splash_mha", interpreted)
        monkeypatch.setattr(attention_tpu, "target_platform", lambda: "tpu")

    return switch


def random_inputs(prefix, length=LENGTH):
    """q, k, v and MAC's context twice [B T H K], the prefix's keys and values [P H K]."""
    keys = jax.random.split(jax.random.key(0), 7)
    sizes = [(BATCH, length)] * 5 + [(prefix,)] * 2
    return tuple(
        jax.random.normal(key, (*size, HEADS, HEAD_DIM), jnp.float32)
        for key, size in zip(keys, sizes, strict=True)
    )


def random_flags():
    generator = np.random.default_rng(1)
    mask = generator.random((BATCH, LENGTH)) < 0.8
    return jnp.asarray(mask), jnp.asarray(generator.random((BATCH, LENGTH)) < 0.03)


def carried_window(inputs):
    """A window that holds tokens, some of them invisible."""
    visible = np.random.default_rng(2).random((BATCH, WINDOW)) < 0.6
    state = init_window_state(BATCH, WINDOW, HEADS, HEAD_DIM, jnp.float32)
    return state._replace(
        keys=inputs[3][:, :WINDOW], values=inputs[4][:, :WINDOW], visible=jnp.asarray(visible)
    )


def windowed(inputs, mask, reset):
    q, k, v, _, _, *prefix = inputs
    state = carried_window(inputs)
    return sliding_window_attention(q, k, v, *prefix, state, rope_base=BASE, mask=mask, reset=reset)


def full(inputs, mask, reset):
    q, k, v, _, _, *prefix = inputs
    state = init_full_state(BATCH, LENGTH, HEADS, HEAD_DIM, jnp.float32)
    return full_attention(q, k, v, *prefix, state, rope_base=BASE, mask=mask, reset=reset)


def segment(inputs, mask, reset):
    del reset  # a segment holds one document
    q, k, v, *rest = inputs
    length = q.shape[1]
    place = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (BATCH, length))
    visible = (place[:, None, :] <= place[:, :, None]) & mask[:, None, :]
    context_keys, context_values, *prefix = rest
    keys = rotate(jnp.stack([context_keys, k], axis=1), place[:, None], BASE)
    values = jnp.stack([context_values, v], axis=1)
    flags = {"query_position": place, "visible": visible}
    return segment_attention(q, keys, values, *prefix, rope_base=BASE, **flags), ()


def outputs_and_gradients(kind, inputs):
    mask, reset = random_flags()

    def loss(inputs):
        out, state = kind(inputs, mask, reset)
        seen = jnp.where(mask[..., None, None], out, 0)  # padding's output is nobody's business
        return jnp.sum(jnp.sin(seen)), (seen, state, jnp.isfinite(out).all())

    (_, aux), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
    return *aux, gradients


@pytest.mark.parametrize(("kind", "prefix"), [(windowed, 3), (full, 0), (segment, 3)])
def test_the_kernel_equals_xla(kind, prefix, by_kernel):
    inputs = random_inputs(prefix)
    out, state, _, gradients = outputs_and_gradients(kind, inputs)
    by_kernel()
    kernel_out, kernel_state, finite, kernel_gradients = outputs_and_gradients(kind, inputs)
    assert finite
    assert_close(kernel_out, out, OUTPUT_F32)
    assert_close(kernel_state, state, STATE_F32)
    assert_close(kernel_gradients, gradients, GRAD_F32)
    assert not np.array_equal(kernel_out, out)  # or the kernel did not run


def compiled_for_v5e(devices, length):
    """The compiled text of forward and backward, batch over "data" and heads over "tensor"."""
    topology = topologies.get_topology_desc(topology_name=TOPOLOGIES["v5e"], platform="tpu")
    chips = np.array(topology.devices[: devices[0] * devices[1]]).reshape(devices)
    mesh = Mesh(chips, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def like(spec, *shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))

    heads = 2
    tokens = like(PartitionSpec("data", None, "tensor"), BATCH, length, heads, HEAD_DIM)
    prefix = like(PartitionSpec(None, "tensor"), 16, heads, HEAD_DIM)

    def loss(q, k, v, prefix_keys, prefix_values):
        state = init_window_state(BATCH, 128, heads, HEAD_DIM, jnp.bfloat16)
        out, _ = sliding_window_attention(
            q, k, v, prefix_keys, prefix_values, state, rope_base=BASE
        )
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))
        return gradient.lower(tokens, tokens, tokens, prefix, prefix).compile().as_text()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [(1, 1), (2, 2)])
def test_compiles_for_an_absent_tpu_with_the_kernel(devices):
    text = compiled_for_v5e(devices, 256)
    for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert name in text
    # Every device has its own share: keys and values are never gathered.
    assert "all-gather" not in text


@pytest.mark.slow
def test_too_few_tokens_compile_for_an_absent_tpu_without_the_kernel():
    assert "splash" not in compiled_for_v5e((1, 1), 64)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, True),
        ({"dtype": jnp.float32}, True),
        ({"head_dim": 64}, False),
        ({"length": 127}, False),
        ({"dtype": jnp.float16}, False),
        ({"keys": attention_tpu.LARGEST_POSITION + 1}, False),
        ({"platform": "cpu"}, False),
        ({"x64": True}, False),
    ],
    ids=str,
)
def test_the_kernel_runs_where_it_can(changes, answer, monkeypatch):
    case = {"dtype": jnp.bfloat16, "head_dim": 128, "length": 128, "platform": "tpu", "x64": False}
    case |= changes
    monkeypatch.setattr(attention_tpu, "target_platform", lambda: case["platform"])
    past = attention_tpu.Past(case["length"], case.get("keys", case["length"]))
    q = jnp.zeros((1, case["length"], 1, case["head_dim"]), case["dtype"])
    with jax.enable_x64(case["x64"]):
        assert attention_tpu.runs(q, past) is answer


def test_the_target_is_this_platform_or_the_one_asked_for():
    assert target_platform() == "cpu"
    with jax.default_device("tpu"):
        assert target_platform() == "tpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert target_platform() == "cpu"
