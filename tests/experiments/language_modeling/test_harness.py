"""The adapter for lm-evaluation-harness: with the package where it is installed, else with its base class alone."""

import importlib.util
import sys
import types

import numpy as np
import pytest
from flax import nnx

from experiments.language_modeling.evaluate import answer
from experiments.language_modeling.likelihood import likelihoods
from experiments.language_modeling.questions import Question, Request, Task
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


def test_scores_are_the_harness_own(adapter):
    """Choices and words, as `evaluate` scores them and as the harness does."""
    pytest.importorskip("lm_eval")
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask

    picks = [
        {"context": f"q{n}", "choices": ["ab", "abcd", "b"[: n % 2 + 1] * (n + 1)], "label": n % 3}
        for n in range(9)
    ]
    words = [{"context": pick["context"], "word": " " + pick["choices"][1]} for pick in picks]
    shared = {"test_split": "test", "doc_to_text": "{{context}}"}

    def task(name, rows, **fields):
        found = {"test": datasets.Dataset.from_list(rows)}
        config = {"task": name, "custom_dataset": lambda **_: found, **shared, **fields}
        return ConfigurableTask(config=config)

    tasks = [
        task(
            "picks", picks, output_type="multiple_choice", doc_to_choice="{{choices}}", doc_to_target="label",
            metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
        ),
        task(
            "words", words, output_type="loglikelihood", doc_to_target="{{word}}", target_delimiter="",
            metric_list=[{"metric": "acc"}, {"metric": "perplexity", "aggregation": "perplexity"}],
        ),
    ]  # fmt: skip
    theirs = simple_evaluate(adapter, tasks=tasks, bootstrap_iters=0)["results"]
    ours = {
        "picks": Task(
            "picks",
            "choice",
            tuple(
                Question(tuple(Request(p["context"], f" {c}") for c in p["choices"]), p["label"])
                for p in picks
            ),
        ),
        "words": Task(
            "words",
            "word",
            tuple(Question((Request(w["context"], w["word"]),), 0) for w in words),
        ),
    }
    for name, asked in ours.items():
        found = answer(adapter.model, adapter.tokenizer, asked)
        for metric in ("acc", "acc_norm", "perplexity"):
            if metric in found:
                np.testing.assert_allclose(theirs[name][f"{metric},none"], found[metric], rtol=1e-6)
