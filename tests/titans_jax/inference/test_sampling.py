"""Each filter of the sampler against its definition, written with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_jax.inference.sampling import GREEDY, Sampling, choose, filtered_logits

VOCABULARY = 13


def case(seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((2, VOCABULARY))
    return logits, rng.random((2, VOCABULARY)) < 0.5


def possible(logits, seen, sampling):
    return np.isfinite(filtered_logits(jnp.asarray(logits), jnp.asarray(seen), sampling))


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
    out = filtered_logits(
        jnp.asarray(logits), jnp.asarray(seen), Sampling(repetition_penalty=penalty)
    )
    expected = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_greedy_takes_the_likeliest_after_the_penalty():
    logits, seen = jnp.asarray([[1.0, 0.9, -3.0]]), jnp.asarray([[True, False, False]])
    keys = jax.random.split(jax.random.key(0), 1)
    assert choose(logits, seen, keys, GREEDY).tolist() == [0]
    strict = Sampling(temperature=0, repetition_penalty=1.5)
    assert choose(logits, seen, keys, strict).tolist() == [1]


def test_draws_follow_the_distribution():
    logits = jnp.log(jnp.asarray([0.6, 0.3, 0.1]))
    keys = jax.random.split(jax.random.key(0), 4000)
    rows = jnp.broadcast_to(logits, (4000, 3))
    drawn = choose(rows, jnp.zeros(rows.shape, bool), keys, Sampling())
    shares = np.bincount(np.asarray(drawn), minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.03)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
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
