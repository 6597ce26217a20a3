"""A stream in a file comes back bit for bit to its own model, and to no other."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.titans_jax.models.tiny_models import (
    BATCH,
    KINDS,
    LENGTH,
    forward,
    random_tokens,
    tiny_config,
    tiny_model,
)
from titans_jax.config import MemoryConfig
from titans_jax.inference.memory_file import fingerprint, load_memory, memory_source, save_memory
from titans_jax.inference.pretrained import (
    mismatches,
    named_leaves,
    read_tensors,
    save_pretrained,
    write_tensors,
)
from titans_jax.inference.stream import prefill, start_stream
from titans_jax.models import Titans


@functools.cache
def model_of(name="lmm"):
    return nnx.merge(*tiny_model(name))


@functools.cache
def built(name, **overrides):
    return Titans(tiny_config(name, **overrides), rngs=nnx.Rngs(0))


def arbitrary(model, batch=BATCH, max_length=LENGTH):
    """A stream with the shapes of the model's, and any bits in it: NaN and -0.0 among them."""
    rng = np.random.default_rng(0)

    def leaf(abstract):
        if abstract.dtype == jnp.bool_:
            return jnp.asarray(rng.integers(0, 2, abstract.shape).astype(bool))
        size = int(np.prod(abstract.shape)) * abstract.dtype.itemsize
        content = np.frombuffer(rng.bytes(size), abstract.dtype)
        return jnp.asarray(content.reshape(abstract.shape))

    return jax.tree.map(leaf, jax.eval_shape(lambda: start_stream(model, batch, max_length)))


def bits(tree):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in leaves]


def assert_same_stream(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert bits(found) == bits(wanted)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "memory.safetensors"
    save_memory(arbitrary(model_of()), path, model_of())
    return path


def rewrite(path, edit):
    """Edits tensors and metadata of a file, with a hash that fits."""
    tensors, metadata = read_tensors(path)
    del metadata["sha256"]
    edit(tensors, metadata)
    write_tensors(path, tensors, metadata)


@pytest.mark.parametrize("name", KINDS)
def test_every_variant_comes_back_bit_for_bit(name, tmp_path):
    """Of what calling the model returns, too: its shapes are those that a new stream has."""
    model = model_of(name)
    stream = arbitrary(model)
    tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    called = jax.eval_shape(lambda tokens: model(tokens)[1], tokens)
    assert not mismatches(named_leaves(called, "/"), named_leaves(stream.state, "/"))
    save_memory(stream, tmp_path / "a", model)
    assert_same_stream(load_memory(tmp_path / "a", model), stream)


def test_bfloat16_comes_back_bit_for_bit(tmp_path):
    model = built("mac", dtype="bfloat16")
    stream = arbitrary(model, batch=1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stream)} == {
        "bfloat16",
        "float32",
        "int32",
        "bool",
    }
    save_memory(stream, tmp_path / "a", model)
    assert_same_stream(load_memory(tmp_path / "a", model), stream)


def test_a_loaded_stream_goes_on_as_if_never_saved(tmp_path):
    model, tokens = model_of("mac"), random_tokens()
    logits, state = forward("mac", tokens)
    stream = start_stream(model, BATCH)._replace(state=state, logits=logits[:, -1])
    save_memory(stream, str(tmp_path / "a"), model)
    loaded = load_memory(str(tmp_path / "a"), model)
    expected = forward("mac", tokens[:, :1], state)
    assert_same_stream(forward("mac", tokens[:, :1], loaded.state), expected)


def test_full_attention_has_the_cache_length_of_the_file(tmp_path):
    model = model_of("transformer")
    for length in (1, 2, 37):
        stream = arbitrary(model, max_length=length)
        save_memory(stream, tmp_path / "a", model)
        assert_same_stream(load_memory(tmp_path / "a", model), stream)


def test_the_file_says_what_it_is(saved):
    with safe_open(saved, framework="numpy") as file:
        metadata, names = file.metadata(), list(file.keys())
    assert metadata["format"] == "titans-jax memory 1"
    assert metadata["fingerprint"] == fingerprint(model_of())
    assert metadata["batch_size"] == str(BATCH)
    assert json.loads(metadata["config"])["memory"]["chunk"] == 3
    assert len(metadata["sha256"]) == 64
    assert "titans_jax_version" in metadata
    assert {"state/memory/weights/0", "state/conv_q", "logits", "seen", "length"} <= set(names)


def test_fingerprints_tell_models_apart():
    model = model_of()
    graph, parameters = tiny_model("lmm")
    assert fingerprint(model) == fingerprint(nnx.merge(graph, parameters))
    flipped = nnx.merge(graph, jax.tree.map(jnp.copy, parameters))
    flipped.norm.scale[...] = jnp.nextafter(flipped.norm.scale[...], 9.0)
    assert fingerprint(flipped) != fingerprint(model)
    same_shapes = nnx.merge(nnx.split(built("lmm", rope_base=2.0))[0], parameters)
    assert fingerprint(same_shapes) != fingerprint(model)


def test_another_models_memory_is_refused_by_what_differs(saved):
    memory = MemoryConfig(num_heads=2, chunk=4, conv_width=3)
    other = built("lmm", memory=memory, feed_forward=8)
    with pytest.raises(ValueError, match="is another model's memory") as refusal:
        load_memory(saved, other)
    assert "feed_forward is 12 in the file, 8 here; memory.chunk is 3 in the file, 4 here" in str(
        refusal.value
    )
    with pytest.raises(ValueError, match=r"config is the same, but the parameters are others"):
        load_memory(saved, built("lmm"))


def test_a_flipped_bit_anywhere_is_refused_or_harmless(saved):
    """In the header, too: names, offsets, fingerprint, config."""
    whole = saved.read_bytes()
    stream = load_memory(saved, model_of())
    for place in [*range(0, len(whole), 61), len(whole) - 1]:
        content = bytearray(whole)
        content[place] ^= 1
        saved.write_bytes(content)
        try:
            loaded = load_memory(saved, model_of())
        except ValueError as error:
            assert str(saved) in str(error)  # noqa: PT017
        else:  # such as white space in the header
            assert place < len(whole) - sum(len(content) for *_, content in bits(stream))
            assert_same_stream(loaded, stream)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_by_the_files_name_or_harmless(saved, data):
    whole, stream = saved.read_bytes(), arbitrary(model_of())
    most = data.draw(st.sampled_from([2000, len(whole)])) - 1
    damage = data.draw(
        st.lists(st.tuples(st.integers(0, most), st.binary(min_size=1, max_size=8)), min_size=1)
    )
    content = bytearray(whole)
    for place, new in damage:
        content[place : place + len(new)] = new
    saved.write_bytes(content)
    try:
        assert_same_stream(load_memory(saved, model_of()), stream)
        memory_source(saved)
    except ValueError as error:
        assert str(saved) in str(error)  # noqa: PT017
    finally:
        saved.write_bytes(whole)


def test_a_stream_that_is_used_up_is_not_saved(saved, tmp_path):
    stream = start_stream(model_of(), 1)
    prefill(model_of(), [1], stream, block=1)
    with pytest.raises(ValueError, match="stream is used up"):
        save_memory(stream, tmp_path / "other", model_of())


def test_damage_is_told_as_such(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged: its contents are not those whose SHA-256"):
        load_memory(saved, model_of())
    for content in (whole[:-3], whole[:100], b"", b"PK" * 40, whole + b"0"):
        saved.write_bytes(content)
        with pytest.raises(ValueError, match="is not a safetensors file, or it is damaged or cut"):
            load_memory(saved, model_of())
    saved.unlink()
    with pytest.raises(FileNotFoundError, match=r"memory\.safetensors is not there"):
        load_memory(saved, model_of())


def test_a_file_of_parameters_is_no_memory(tmp_path):
    save_pretrained(model_of(), tmp_path)
    with pytest.raises(ValueError, match="is not a memory file: its format is 'flax', must be"):
        load_memory(tmp_path / "model.safetensors", model_of())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, m: t.pop("logits"), "missing: logits"),
        (lambda t, m: t.update(more=t["logits"]), "unexpected: more"),
        (
            lambda t, m: t.update({"state/conv_q": t["state/conv_q"][:, :, :1]}),
            r"wrong shape: state/conv_q is \[2, 2, 1, 8\], must be \[2, 2, 2, 8\]",
        ),
        (lambda t, m: t.update(seen=t["seen"].astype(np.int32)), "seen is int32, must be bool"),
        (lambda t, m: m.update(batch_size="3"), r"wrong shape: .*, must be \[3, 11\]"),
        (lambda t, m: m.update(batch_size="-1"), "batch_size must be a positive integer, got '-1'"),
        (lambda t, m: m.pop("fingerprint"), "its metadata have no 'fingerprint'"),
        (
            lambda t, m: m.update(format="titans-jax memory 2"),
            "its format is 'titans-jax memory 2'",
        ),
    ],
)
def test_a_file_that_does_not_hold_a_stream_is_refused(saved, edit, message):
    rewrite(saved, edit)
    with pytest.raises(ValueError, match=message) as refusal:
        load_memory(saved, model_of())
    assert str(saved) in str(refusal.value)


def test_a_full_cache_of_other_shapes_is_refused(tmp_path):
    model, path = model_of("transformer"), tmp_path / "a"
    save_memory(arbitrary(model), path, model)
    rewrite(path, lambda t, m: t.update({"state/keys": t["state/keys"][:, :, :, :5]}))
    with pytest.raises(ValueError, match=r"wrong shape: state/\w+ is"):
        load_memory(path, model)
    rewrite(path, lambda t, m: t.update({"state/keys": t["state/keys"][0, 0]}))
    with pytest.raises(ValueError, match=r"state/keys is \[2, 5, 4\], must be"):
        load_memory(path, model)


def test_no_hash_is_no_memory_file(saved):
    tensors, metadata = read_tensors(saved)
    del metadata["sha256"]
    save_file(tensors, saved, metadata)
    with pytest.raises(ValueError, match="its metadata have no 'sha256'"):
        load_memory(saved, model_of())


def test_what_the_model_could_not_load_is_not_saved(saved, tmp_path):
    before = saved.read_bytes()
    stream = arbitrary(model_of())
    with pytest.raises(ValueError, match=r"is not written: wrong shape: logits is \[2, 9\]"):
        save_memory(stream._replace(logits=stream.logits[:, :9]), saved, model_of())
    with pytest.raises(ValueError, match="stream must be a Stream, got NeuralMemoryState"):
        save_memory(stream.state, saved, model_of())
    with pytest.raises(FileNotFoundError, match="the folder for a, does not exist"):
        save_memory(stream, tmp_path / "missing" / "a", model_of())
    assert saved.read_bytes() == before


def test_a_save_that_fails_leaves_the_file_that_was_there(saved, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = saved.read_bytes()
    monkeypatch.setattr("titans_jax.inference.pretrained.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        save_memory(arbitrary(model_of()), saved, model_of())
    assert os.listdir(saved.parent) == [saved.name]
    assert saved.read_bytes() == before


def test_files_may_be_read_by_whom_the_umask_lets(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode
