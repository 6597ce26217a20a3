"""Bad steps change nothing on the device, and are named, written down, stopped at or skipped on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import train as training
from experiments.training.groups import GROUPS
from experiments.training.guard import MOST_SKIPPED, BadStepError, BadSteps, guarded
from experiments.training.step import StepMetrics
from tests.experiments.tiny_run import tiny_config


def walk(losses, spike_factor, norms=None):
    """Parameters, state and verdict after each step of a guarded Adam."""
    optimizer = guarded(optax.adam(0.1), spike_factor)
    params = {"w": jnp.ones(3, jnp.float32)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, loss, norm):
        grads = {"w": params["w"] * norm}
        updates, state = optimizer.update(grads, state, params, loss=loss, grad_norm=norm)
        return optax.apply_updates(params, updates), state

    history = [(params, state)]
    norms = [1.0] * len(losses) if norms is None else norms
    for loss, norm in zip(losses, norms, strict=True):
        params, state = step(params, state, jnp.float32(loss), jnp.float32(norm))
        history.append((params, state))
    return history


def same(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


@pytest.mark.parametrize(("loss", "norm"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan)])
def test_what_is_not_finite_changes_nothing(loss, norm):
    history = walk([2.0, loss, 2.0], 0.0, [1.0, norm, 1.0])
    assert [bool(state.bad) for _, state in history[1:]] == [False, True, False]
    (_, first), (_, second) = history[1], history[2]
    assert same(history[1][0], history[2][0])
    assert same(first._replace(bad=0), second._replace(bad=0))
    assert not same(history[2][0], history[3][0])
    # The step after is the one that would have come without it.
    assert same(history[3], walk([2.0, 2.0], 0.0)[2])


def test_a_spike_is_a_loss_far_above_recent_ones():
    losses = [4.0, 2.0] * 15
    assert [bool(s.bad) for _, s in walk([*losses, 8.9, 9.7, 3.0], 3.0)[-3:]] == [
        False,
        True,
        False,
    ]
    assert not any(bool(s.bad) for _, s in walk([2.0, 9.0, 2.0], 3.0)[1:])  # too early to say
    assert not bool(walk([*losses, 99.0], 0.0)[-1][1].bad)


def metrics(loss, bad=True):
    norms = np.arange(len(GROUPS), dtype=np.float32)
    return StepMetrics(*map(np.float32, (loss, 7.0)), norms, norms, np.bool_(bad), np.float32(2.5))


def test_stopping_names_the_step_its_norms_and_its_batch(tmp_path):
    bad_steps = BadSteps(tmp_path, "mac", skip=False)
    for step in (3, 4):
        bad_steps.keep(step, {"inputs": np.full((2, 5), step)})
    bad_steps.check(2, metrics(1.0, bad=False))
    with pytest.raises(BadStepError) as error:
        bad_steps.check(3, metrics(np.nan))
    message = str(error.value)
    for part in ("mac step 3: loss nan, gradient norm 7", "not finite", "memory 2", "norms 4"):
        assert part in message
    with np.load(tmp_path / "bad_batch_3.npz") as batch:
        assert (batch["inputs"] == 3).all()
    with pytest.raises(BadStepError, match=r"loss 9.0000.*spike over the recent mean of 2.5000"):
        bad_steps.check(4, metrics(9.0))


def test_skipping_ends_where_nothing_else_happens(tmp_path, capsys):
    bad_steps = BadSteps(tmp_path, "mac", skip=True)

    def fail(times):
        for _ in range(times):
            bad_steps.keep(1, {})
            bad_steps.check(1, metrics(np.inf))

    fail(MOST_SKIPPED - 1)
    bad_steps.check(1, metrics(1.0, bad=False))
    fail(MOST_SKIPPED - 1)
    assert "The step is skipped" in capsys.readouterr().out
    with pytest.raises(BadStepError, match="were all skipped"):
        fail(1)


def poisoned(make, at):
    def make_step(*args):
        step, calls = make(*args), 0

        def poisoned_step(params, opt_state, batch):
            nonlocal calls
            calls += 1
            if calls == at:  # a token outside of the vocabulary
                batch = batch | {"inputs": batch["inputs"] + 10_000}
            return step(params, opt_state, batch)

        return poisoned_step

    return make_step


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_run_with_one_bad_batch(action, tmp_path, monkeypatch):
    config = tiny_config(
        tmp_path, on_bad_step=action, steps=6, eval_every=0, model__variant="transformer"
    )
    run = training.prepare(config, tmp_path / "run")
    ((name, model),) = run.models.items()
    folder = tmp_path / "run" / name
    monkeypatch.setattr(training, "make_train_step", poisoned(training.make_train_step, at=3))

    def train():
        return training.train(run.config, model, run.text, run.tokenizer, folder, run.layout)

    if action == "stop":
        with pytest.raises(BadStepError, match="transformer step 3: loss nan"):
            train()
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["2"]
    else:
        trained = train()
        losses = {r["step"]: r["loss"] for r in trained.records if "loss" in r}
        assert [step for step, loss in losses.items() if not np.isfinite(loss)] == [3]
        assert losses[6] < losses[1]
    assert np.load(folder / "bad_batch_3.npz")["inputs"].shape == (4, 16)
