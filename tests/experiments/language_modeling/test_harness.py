"""The adapter for lm-evaluation-harness: with the package where it is installed, else with its base class alone."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from flax import nnx

from experiments.language_modeling.likelihood import likelihoods
from experiments.language_modeling.questions import Request
from titans_jax import MemoryConfig, Titans, TitansConfig
from titans_jax.data import ByteTokenizer
from titans_jax.inference import GREEDY, generate, prefill

BASE = "lm_eval.api.model"


class BaseLM:
    """What the adapter uses of `lm_eval.api.model.LM`."""

    def __init__(self):
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *arguments: None)


@pytest.fixture(scope="module")
def adapter():
    if importlib.util.find_spec("lm_eval"):
        from experiments.language_modeling.harness import TitansLM
    else:
        stubs = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api", BASE)}
        stubs[BASE].LM = BaseLM
        with pytest.MonkeyPatch.context() as patch:
            for name, module in stubs.items():
                patch.setitem(sys.modules, name, module)
            from experiments.language_modeling.harness import TitansLM
    memory = MemoryConfig(num_heads=1, chunk=4)
    config = TitansConfig(variant="lmm", dim=8, num_layers=1, feed_forward=0, memory=memory)
    return TitansLM(Titans(config, rngs=nnx.Rngs(0)), ByteTokenizer())


def requests(*arguments):
    return [types.SimpleNamespace(args=one) for one in arguments]


def test_likelihoods_come_in_the_order_of_the_requests(adapter):
    pairs = [("a longer context", " b"), ("", "a")]
    expected = likelihoods(adapter.model, adapter.tokenizer, [Request(*one) for one in pairs])
    assert adapter.loglikelihood(requests(*pairs)) == [tuple(one) for one in expected]


def test_a_whole_text_has_the_likelihood_of_its_tokens(adapter):
    (whole,) = adapter.loglikelihood_rolling(requests(("some text",)))
    ((expected, _),) = adapter.loglikelihood(requests(("", "some text")))
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


def test_generation_ends_before_the_first_stop(adapter):
    (free,) = adapter.generate_until(requests(("ab", {"until": [], "max_gen_toks": 24})))
    ids = np.frombuffer(b"\nab", np.uint8).astype(np.int32)
    generated = generate(adapter.model, prefill(adapter.model, ids), 24, GREEDY)
    assert free == adapter.tokenizer.decode(generated.tokens[0]).decode(errors="replace")
    stop = free[3:5]
    (cut,) = adapter.generate_until(requests(("ab", {"until": stop, "max_gen_toks": 24})))
    assert cut == free[: free.index(stop)]
