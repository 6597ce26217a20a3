"""Each filter of the sampler against its definition, written with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_jax.inference.sampling import GREEDY, Sampling, choose, divide, filtered_logits

VOCABULARY = 13


def case(seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((2, VOCABULARY))
    return logits, rng.random((2, VOCABULARY)) < 0.5


def filtered(logits, seen, sampling):
    parts = divide(sampling, logits.shape[-1])
    return np.asarray(filtered_logits(jnp.asarray(logits), jnp.asarray(seen), *parts))


def possible(logits, seen, sampling):
    return np.isfinite(filtered(logits, seen, sampling))


@given(seed=st.integers(0, 1000), k=st.integers(1, VOCABULARY + 2))
def test_top_k_keeps_the_k_likeliest(seed, k):
    logits, seen = case(seed)
    kept = possible(logits, seen, Sampling(top_k=k))
    for row, flags in zip(logits, kept, strict=True):
        assert set(np.flatnonzero(flags)) == set(np.argsort(-row)[:k])


@given(seed=st.integers(0, 1000), p=st.floats(0.01, 1.0), temperature=st.floats(0.3, 3.0))
def test_top_p_keeps_the_fewest_that_reach_p(seed, p, temperature):
    logits, seen = case(seed)
    kept = possible(logits, seen, Sampling(top_p=p, temperature=temperature))
    for row, flags in zip(logits, kept, strict=True):
        probabilities = np.exp(row / temperature) / np.exp(row / temperature).sum()
        order = np.argsort(-row)
        sums = np.cumsum(probabilities[order])
        if np.abs(sums - p).min() < 1e-6:  # on the border rounding decides
            continue
        fewest = 1 + int((sums < p).sum())
        assert set(np.flatnonzero(flags)) == set(order[:fewest])


@given(seed=st.integers(0, 1000), penalty=st.floats(0.5, 2.0))
def test_the_repetition_penalty_makes_seen_tokens_less_likely(seed, penalty):
    logits, seen = case(seed)
    out = filtered(logits, seen, Sampling(repetition_penalty=penalty))
    expected = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_greedy_takes_the_likeliest_after_the_penalty():
    logits, seen = jnp.asarray([[1.0, 0.9, -3.0]]), jnp.asarray([[True, False, False]])
    keys = jax.random.split(jax.random.key(0), 1)
    assert choose(logits, seen, keys, *divide(GREEDY, 3)).tolist() == [0]
    strict = Sampling(temperature=0, repetition_penalty=1.5)
    assert choose(logits, seen, keys, *divide(strict, 3)).tolist() == [1]


def test_draws_follow_the_distribution():
    logits = jnp.log(jnp.asarray([0.6, 0.3, 0.1]))
    keys = jax.random.split(jax.random.key(0), 4000)
    rows = jnp.broadcast_to(logits, (4000, 3))
    drawn = choose(rows, jnp.zeros(rows.shape, bool), keys, *divide(Sampling(), 3))
    shares = np.bincount(np.asarray(drawn), minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.03)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", True),
        ("top_k", 2.0),
        ("stop_tokens", (1.0,)),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("stop_tokens", (-1,)),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .* got"):
        Sampling(**{field: value})


def test_numpy_numbers_are_taken_and_stored_as_pythons():
    given_by_numpy = Sampling(
        np.float32(0.5), np.int64(3), np.float64(0.75), np.float32(2), np.array([5, 7], np.int32)
    )
    plain = Sampling(0.5, 3, 0.75, 2.0, (5, 7))
    assert given_by_numpy == plain
    assert hash(given_by_numpy) == hash(plain)
    assert [type(token) for token in given_by_numpy.stop_tokens] == [int, int]


def test_only_which_filters_run_is_compiled_in():
    def compiled(**settings):
        return divide(Sampling(**settings), VOCABULARY)[0]

    assert compiled(temperature=0.7) == compiled(temperature=1.3)
    assert compiled(top_p=0.7) == compiled(top_p=0.9) != compiled()
    assert compiled(repetition_penalty=1.1) == compiled(repetition_penalty=1.2) != compiled()
    assert compiled(top_k=5) == compiled(top_k=8) != compiled()
    assert compiled(top_k=VOCABULARY) == compiled()
    assert compiled(stop_tokens=(1, 2, 3)) == compiled(stop_tokens=(4, 5, 6, 7)) != compiled()
    assert compiled(temperature=0, top_k=3, top_p=0.5) == compiled(temperature=0)
