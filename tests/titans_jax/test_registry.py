"""The NamedTuples of the library: written by jax.export, tabulated by Flax, named by their fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from tests.titans_jax.models.tiny_models import VARIANTS, tiny_config
from titans_jax import MemoryConfig, NeuralMemory, Titans
from titans_jax.forecasting.streaming import start_stream as start_forecasts
from titans_jax.inference import start_stream
from titans_jax.inference.pretrained import named_leaves
from titans_jax.layers.cached_attention import decoding_state
from titans_jax.memory.diagnostics import Diagnostics
from titans_jax.memory.gates import Gates
from titans_jax.models.forecaster import Forecaster, ForecasterConfig


def abstract(make):
    return jax.eval_shape(make)


def stream_of(name):
    return abstract(lambda: start_stream(Titans(tiny_config(name), rngs=nnx.Rngs(0)), 2, 7))


def decoding(name):
    one_layer = jax.vmap(functools.partial(decoding_state, rope_base=1e4))
    return jax.eval_shape(one_layer, stream_of(name).state)


def of_arrays(kind):
    return kind(*[jax.ShapeDtypeStruct((2,), jnp.float32)] * len(kind._fields))


STATES = {
    **{name: functools.partial(stream_of, name) for name in VARIANTS},
    **{
        f"{name}_while_decoding": functools.partial(decoding, name)
        for name in ("mac", "mag", "transformer")
    },
    "forecasts": lambda: abstract(
        lambda: start_forecasts(Forecaster(ForecasterConfig(), rngs=nnx.Rngs(0)))
    ),
    "gates": lambda: of_arrays(Gates),
    "diagnostics": lambda: of_arrays(Diagnostics),
}


@pytest.mark.parametrize("name", STATES)
def test_what_takes_and_returns_a_state_can_be_exported(name):
    pytest.importorskip("flatbuffers")
    state = STATES[name]()
    exported = export.export(jax.jit(lambda state: state))(state)
    read = export.deserialize(exported.serialize())
    assert read.in_tree == exported.in_tree == jax.tree.structure(((state,), {}))
    assert read.out_tree == jax.tree.structure(state)


def test_a_function_exported_for_other_fields_is_refused():
    pytest.importorskip("flatbuffers")
    exported = export.export(jax.jit(lambda state: state))(of_arrays(Gates)).serialize()
    first = Gates._fields[0].encode()
    assert exported.count(first + b",") == 2  # taken and returned
    other = exported.replace(first + b",", b"x" * len(first) + b",")
    with pytest.raises(ValueError, match=r"takes a Gates of xx*,.*, here it is of .*: export it"):
        export.deserialize(other)


def test_an_exported_step_gives_what_the_step_gives():
    pytest.importorskip("flatbuffers")
    layer = NeuralMemory(8, MemoryConfig(num_heads=1, chunk=4), rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(layer)

    @jax.jit
    def step(x, state):
        return nnx.merge(graph, parameters)(x, state)

    x, state = jax.random.normal(jax.random.key(0), (2, 3, 8)), layer.init_state(2)
    read = export.deserialize(export.export(step)(x, state).serialize())
    y, after = step(x, state)
    y_read, after_read = read.call(x, state)
    np.testing.assert_array_equal(y_read, y)
    assert type(after_read) is type(after)
    np.testing.assert_array_equal(after_read.memory.weights[0], after.memory.weights[0])


def test_leaves_are_named_by_their_fields():
    state = stream_of("lmm")
    names = list(named_leaves(state, "/"))
    assert names[0] == "state/memory/weights/0"
    assert names[-3:] == ["logits", "seen", "length"]
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(state)
    assert jax.tree_util.keystr(path) == ".state.memory.weights[0]"


@pytest.fixture
def methods_kept():
    """Flax replaces the methods of all classes that it meets, and puts them back only if nothing fails."""
    classes = [nnx.Module]
    for cls in classes:
        classes += cls.__subclasses__()
    before = {cls: dict(vars(cls)) for cls in classes}
    yield
    for cls, members in before.items():
        for name in set(vars(cls)) - set(members):
            delattr(cls, name)
        for name, member in members.items():
            if vars(cls)[name] is not member:
                setattr(cls, name, member)


@pytest.mark.usefixtures("methods_kept")
def test_flax_tabulates_layers_and_models_with_their_states():
    layer = NeuralMemory(8, MemoryConfig(num_heads=1, chunk=4), rngs=nnx.Rngs(0))
    model = Titans(tiny_config("mag", num_layers=1), rngs=nnx.Rngs(0))
    plain = {"console_kwargs": {"force_terminal": False, "force_jupyter": False, "width": 300}}
    x, tokens = jnp.ones((1, 4, 8), jnp.float32), jnp.ones((1, 4), jnp.int32)
    table = nnx.tabulate(layer, x, layer.init_state(1), **plain)
    assert "NeuralMemory Summary" in table
    assert "float32[1,1,8,16]" in table  # of the first fast weights in the state
    table = nnx.tabulate(model, tokens, model.init_state(1), **plain)
    assert "SelfAttention" in table
    assert "float64[1,4,11]" in table
    # Flax puts back the methods that it replaced.
    assert model(tokens)[0].shape == (1, 4, 11)
