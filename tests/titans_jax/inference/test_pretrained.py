"""Models saved in the Hugging Face layout come back bit for bit, and what is not such a model is refused."""

import fcntl
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.titans_jax.models.tiny_models import VARIANTS, moved, random_tokens, tiny_config
from tests.titans_jax.models.tiny_models import tiny_model as graph_and_parameters
from titans_jax.config import RULE_OF_0_1, MemoryConfig, TitansConfig
from titans_jax.inference.pretrained import (
    config_from_dict,
    config_to_dict,
    from_pretrained,
    named_parameters,
    read_tensors,
    save_pretrained,
    write_tensors,
)
from titans_jax.models import Titans

RESIDUAL = MemoryConfig(num_heads=2, chunk=3, network="residual", depth=1)


def tiny(name="lmm"):
    return nnx.merge(*graph_and_parameters(name))


def built(**overrides):
    graph, parameters = nnx.split(Titans(tiny_config("lmm", **overrides), rngs=nnx.Rngs(0)))
    return nnx.merge(graph, moved(parameters))


def bits(parameters):
    return {
        name: (np.asarray(array).dtype, np.asarray(array).shape, np.asarray(array).tobytes())
        for name, array in parameters.items()
    }


def assert_same_model(found, wanted):
    assert found.config == wanted.config
    assert nnx.split(found)[0] == nnx.split(wanted)[0]
    assert bits(named_parameters(found)) == bits(named_parameters(wanted))


@pytest.fixture
def folder(tmp_path):
    save_pretrained(tiny(), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    """Sets fields, as a person would; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"sha256": None, **changes}
    changes["sha256"] = None
    removed = [name for name, value in changes.items() if value is None]
    file.write_text(json.dumps({k: v for k, v in config.items() if k not in removed}))


def edit_weights(folder, edit):
    """Rewrites the tensors, as another program would: without our hash."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "flax"})


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_comes_back_bit_for_bit(name, tmp_path):
    save_pretrained(tiny(name), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    assert_same_model(from_pretrained(tmp_path), tiny(name))


@pytest.mark.parametrize(
    "overrides",
    [
        {"dtype": "bfloat16", "tie_embeddings": False},
        {"dtype": "float32", "memory": RESIDUAL, "feed_forward": 0, "persistent_tokens": 0},
    ],
)
def test_dtypes_heads_and_the_residual_network_come_back(overrides, tmp_path):
    model = built(**overrides)
    assert {array.dtype for array in named_parameters(model).values()} == {jnp.dtype("float32")}
    save_pretrained(model, tmp_path)
    assert_same_model(from_pretrained(tmp_path), model)


def test_a_model_computes_what_it_computed(folder):
    graph, parameters = nnx.split(from_pretrained(folder))
    run = jax.jit(lambda p, tokens: nnx.merge(graph, p)(tokens)[0])
    logits, expected = (run(p, random_tokens()) for p in (parameters, nnx.state(tiny())))
    np.testing.assert_array_equal(logits, expected)


def test_names_and_config_are_as_documented(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "titans"
    assert config["architectures"] == ["Titans"]
    assert {"titans_jax_version", "variant", "dim", "vocab_size"} <= config.keys()
    assert config["memory"]["chunk"] == 3
    tensors = load_file(folder / "model.safetensors")
    assert tensors["embedding"].shape == (11, 8)
    assert tensors["layers.feed_forward.up.kernel"].shape == (2, 8, 12)
    assert tensors["layers.mixer.memory.initial_weights.0"].shape == (2, 2, 4, 8)


def test_nothing_random_is_drawn(folder, monkeypatch):
    def drawn(*arguments, **_):
        assert isinstance(arguments[0], jax.core.Tracer)
        return normal(*arguments, **_)

    normal = jax.random.normal
    monkeypatch.setattr(jax.random, "normal", drawn)
    from_pretrained(folder)


def test_a_large_model_is_sharded(tmp_path):
    model = tiny()
    arrays = named_parameters(model)
    limit = max(array.nbytes for array in arrays.values())
    save_pretrained(model, tmp_path, max_shard_bytes=limit)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())
    assert index["weight_map"].keys() == arrays.keys()
    for file in files:
        assert sum(array.nbytes for array in load_file(tmp_path / file).values()) <= limit
    assert_same_model(from_pretrained(tmp_path), model)

    (tmp_path / files[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{files[1]} is not there"):
        from_pretrained(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / files[1])
    for wrong, message in (
        (index["weight_map"] | {"embedding": files[-1]}, "do not agree on embedding"),
        (index["weight_map"] | {"embedding": "../x.safetensors"}, r"'\.\./x\.safetensors' must be"),
        (None, "must hold an object 'weight_map'"),
    ):
        file = tmp_path / "model.safetensors.index.json"
        file.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(ValueError, match=message):
            from_pretrained(tmp_path)


def test_saving_replaces_the_model_that_was_there_and_nothing_else(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    save_pretrained(built(num_layers=1), tmp_path, max_shard_bytes=1)
    save_pretrained(tiny(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert_same_model(from_pretrained(tmp_path), tiny())
    with pytest.raises(ValueError, match="max_shard_bytes must be a positive integer, got 0"):
        save_pretrained(tiny(), tmp_path, max_shard_bytes=0)


def test_a_save_that_fails_leaves_what_was_there(folder, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("titans_jax.inference.pretrained.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(built(num_layers=1), folder)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert_same_model(from_pretrained(folder), tiny())


def test_reading_does_not_write(folder):
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    from_pretrained(str(folder))
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    folder.chmod(0o755)


def test_a_config_is_equal_after_json():
    config = tiny_config("mac", memory=RESIDUAL, rope_base=20000)
    values = config_to_dict(config)
    assert config_from_dict(json.loads(json.dumps(values)), "here") == config
    assert json.dumps(values) == json.dumps(
        config_to_dict(tiny_config("mac", memory=RESIDUAL, rope_base=20000.0))
    )


def test_a_network_that_is_a_function_is_refused_by_name():
    def my_network(weights, x):
        return x

    memory = MemoryConfig(network=my_network, **RULE_OF_0_1)
    config = TitansConfig(variant="transformer", memory=memory)
    with pytest.raises(
        ValueError, match=r"memory\.network must be .* got the function 'my_network'"
    ):
        config_to_dict(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layer": 2}, "unknown field num_layer, the nearest is num_layers"),
        ({"num_layers": None}, "field num_layers is missing"),
        (
            {"num_layers": None, "num_layer": 2},
            "field num_layers is missing, the nearest there is num_layer",
        ),
        ({"memory": 3}, "memory must be an object of MemoryConfig's fields, got 3"),
        ({"memory": {"chunks": 3}}, r"unknown field memory\.chunks, the nearest is memory\.chunk"),
        ({"memory": {"depth": 3}}, r"field memory\.chunk is missing"),
        ({"dim": "8"}, r"config\.json: dim must be a positive integer, got '8'"),
        ({"remat": 1}, "remat must be true or false, got 1"),
        ({"rope_base": "1e4"}, "rope_base must be a number, got '1e4'"),
        ({"model_type": "llama"}, "model_type must be 'titans', got 'llama'"),
        ({"titans_jax_version": "99.0", "new": 1}, r"written by titans_jax 99\.0, this is"),
    ],
)
def test_a_bad_config_is_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


def test_a_config_that_was_changed_is_refused_until_its_hash_is_deleted(folder):
    """No tensor has another shape, so nothing else would show it."""
    file = folder / "config.json"
    whole = file.read_text()
    assert whole.count('"rope_base": 10000.0') == 1
    changed = whole.replace('"rope_base": 10000.0', '"rope_base": 10001.0')
    file.write_text(changed)
    with pytest.raises(
        ValueError, match=r"config\.json is not what was written: it is damaged, or"
    ):
        from_pretrained(folder)
    edit_config(folder)
    assert from_pretrained(folder).config.rope_base == 10001.0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_by_the_files_name_or_harmless(folder, data):
    wanted = tiny()
    name = data.draw(st.sampled_from(sorted(os.listdir(folder))))
    file = folder / name
    whole = file.read_bytes()
    # Half of them in the header, of which there is less than of tensors.
    most = data.draw(st.sampled_from([min(len(whole), 2000), len(whole)])) - 1
    damage = data.draw(
        st.lists(st.tuples(st.integers(0, most), st.integers(0, 255)), min_size=1, max_size=4)
    )
    content = bytearray(whole)
    for place, byte in damage:
        content[place] = byte
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    file.write_bytes(content[:length])
    try:
        found = from_pretrained(folder)
    except ValueError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert_same_model(found, wanted)
    finally:
        file.write_bytes(whole)


def test_files_are_synced_as_windows_wants_them(folder, monkeypatch):
    """There fsync takes only what is open for writing."""
    synced = []

    def fsync(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save_pretrained(tiny(), folder)
    assert len(synced) == 2


def test_a_config_that_is_no_json_object_is_refused(folder):
    (folder / "config.json").write_text('{"dim": ')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object, got list"):
        from_pretrained(folder)


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        from_pretrained(folder)


def cut_axis(tensors):
    tensors["embedding"] = tensors["embedding"][:10].copy()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("embedding"), "missing: embedding"),
        (lambda t: t.update(lm_head=np.zeros(3)), "unexpected: lm_head"),
        (cut_axis, r"wrong shape: embedding is \[10, 8\], must be \[11, 8\]"),
        (
            lambda t: t.update(embedding=np.zeros((11, 8), np.int64)),
            "wrong dtype: embedding is int64, must be float64",
        ),
        (lambda t: [t.popitem() for _ in range(8)], r"missing: (\S+, ){4}\S+ and 3 more"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(folder, edit, message):
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


def test_narrower_floats_are_widened_and_wider_ones_refused(tmp_path):
    model = built(dtype="float32")
    save_pretrained(model, tmp_path)
    narrow = {name: array.astype(jnp.bfloat16) for name, array in named_parameters(model).items()}
    edit_weights(tmp_path, lambda t: t.update(jax.tree.map(np.asarray, narrow)))
    widened = {name: array.astype(jnp.float32) for name, array in narrow.items()}
    assert bits(named_parameters(from_pretrained(tmp_path))) == bits(widened)
    edit_weights(tmp_path, lambda t: t.update(embedding=np.zeros((11, 8))))
    with pytest.raises(ValueError, match="embedding is float64, must be float32"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_damaged_weights_are_refused(folder, damage):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= damage == "flipped"
    broken = {"cut": content[:-9], "flipped": content, "other": b"PK" * 40, "empty": b""}
    file.write_bytes(broken[damage])
    with pytest.raises(ValueError, match=r"model\.safetensors is .*damaged"):
        from_pretrained(folder)


def test_arrays_are_written_as_they_read_not_as_they_lie(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    write_tensors(tmp_path / "a", {"x": array}, {})
    np.testing.assert_array_equal(read_tensors(tmp_path / "a")[0]["x"], array)
