"""`config.data.carry`: the memory goes on from window to window, and a run resumes with it, bit for bit."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import train as training
from experiments.training.carry import Carried, start
from experiments.training.mesh import Share
from experiments.training.step import init_params, make_train_step, split_model
from experiments.training.text import load_text, train_batches
from tests.experiments.test_resume import Stopped, losses, run
from tests.experiments.tiny_run import tiny_config
from tests.tolerances import OUTPUT_F32, assert_close
from titans_jax.data import load_tokenizer
from titans_jax.models.loss import next_token_loss


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_a_step_reads_on_with_the_memory_of_the_step_before(variant, tmp_path):
    """Its loss is that of the window's part of the whole walk; a row that starts anew has a fresh memory."""
    config = tiny_config(tmp_path, model__variant=variant, data__carry=3)
    tokenizer = load_tokenizer("bytes")
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    batches = train_batches(config, load_text(config, tokenizer), Share(0, 1))
    graphdef, _ = split_model(model)
    optimizer = optax.sgd(0.0)
    step = make_train_step(graphdef, optimizer, 1)
    params = init_params(model, seed=0)
    state = jax.jit(start(graphdef, optimizer, 4))(params)
    assert isinstance(state, Carried)
    parts = []
    found = []
    for _ in range(4):
        batch = next(batches)
        parts.append(batch)
        params, state, metrics = step(params, state, batch)
        found.append(float(metrics.loss))
    whole = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    @jax.jit
    def nats(tokens):
        logits, _ = nnx.merge(graphdef, params)(tokens["inputs"], reset=tokens["reset"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens["targets"])

    counts = np.stack([part["loss_mask"] for part in parts])
    each = np.stack(np.split(np.asarray(nats(whole)), 4, axis=1))
    expected = (each * counts).sum((1, 2)) / counts.sum((1, 2))
    assert_close(np.array(found, np.float32), expected.astype(np.float32), OUTPUT_F32)
    alone = [float(next_token_loss(nnx.merge(graphdef, params), part)[0]) for part in parts]
    assert abs(alone[1] - found[1]) > 1e-4


def test_stopped_and_continued_equals_uninterrupted(tmp_path, monkeypatch):
    """Stopped at a step at which some memories are old; the memory is saved with the rest."""
    config = tiny_config(tmp_path, model__variant="lmm", data__carry=4)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = run(config, straight, monkeypatch)
    with pytest.raises(Stopped):
        run(config, broken, monkeypatch, stop_after=5)
    parts = run(config, broken, monkeypatch)
    assert losses(straight / "lmm") == losses(broken / "lmm")
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"data__packing": "documents"}, "0 where data.packing is 'documents'"),
        ({"accumulation": 2}, "0 where accumulation is more than 1, here 2"),
        ({"mesh__sequence": 2}, "0 where mesh.sequence is more than 1, here 2"),
        ({"model__variant": "transformer", "model__window": 0}, "0 where attention has no window"),
        ({"data__sequence_length": 20}, "0 where data.sequence_length=20 is no multiple of .*, 8"),
    ],
)
def test_what_cannot_be_carried_is_refused(changes, wanted, tmp_path):
    with pytest.raises(ValueError, match=rf"config.data.carry=3: must be {wanted}"):
        tiny_config(tmp_path, data__carry=3, **changes)


def test_a_text_shorter_than_one_walk_is_refused(tmp_path):
    config = tiny_config(tmp_path, data__carry=10_000)
    with pytest.raises(ValueError, match=r"carry is 10000; the text has .* full windows"):
        training.prepare(config, tmp_path / "run")
