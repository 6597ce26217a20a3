"""A model of this project as lm-evaluation-harness wants one (package lm_eval 0.4, which this module needs).

    from lm_eval import simple_evaluate
    from experiments.language_modeling.harness import TitansLM

    simple_evaluate(TitansLM.from_workdir("runs/mag"), tasks=["lambada_openai", "piqa"])

No text is too long for these models, so nothing is ever cut off on the left. A document's start token stands before
every context and is what an empty one consists of.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import LM

from experiments.language_modeling.likelihood import likelihoods
from experiments.language_modeling.questions import Request
from experiments.language_modeling.saved_models import load_model
from titans_jax import Titans
from titans_jax.data import Tokenizer
from titans_jax.inference import GREEDY, Sampling, generate_text, prefill, score

#: Tokens that are generated where a request does not say how many; the harness's own default.
MAX_TOKENS = 256
#: Tokens generated before the next look for a stop string.
BURST = 16


class TitansLM(LM):
    """Scores and generates for the harness."""

    def __init__(self, model: Titans, tokenizer: Tokenizer):
        """Wraps a model.

        Args:
          model: the language model.
          tokenizer: its tokenizer.
        """
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def from_workdir(cls, workdir: str, tokenizer: str | None = None) -> "TitansLM":
        """The newest checkpoint of a run; raises as `load_model` does."""
        trained = load_model(Path(workdir), tokenizer)
        return cls(trained.model, trained.tokenizer)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Per request, whose args are (context, continuation): its log probability, and whether it is the likeliest."""
        pairs = [Request(*request.args) for request in requests]
        scored = likelihoods(self.model, self.tokenizer, pairs)
        found = [(one.log_probability, one.greedy) for one in scored]
        for pair, one in zip(pairs, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", tuple(pair), one)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Per request, whose args are (text,): the log probability of the whole text, read as one stream."""
        found = []
        for (text,) in (request.args for request in requests):
            ids = self._encode(text)
            (nats,), _ = score(self.model, ids, max_length=len(ids))
            value = -float(np.sum(nats[1:], dtype=np.float64))  # the start token is not predicted
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
            found.append(value)
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Per request, whose args are (context, options): the text generated up to the first of options["until"].

        Greedily, unless options["do_sample"]; then with its temperature, top_k and top_p.
        """
        found = []
        for context, options in (request.args for request in requests):
            text = self._generate(context, dict(options))
            self.cache_hook.add_partial("generate_until", (context, options), text)
            found.append(text)
        return found

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        most = int(options.get("max_gen_toks", MAX_TOKENS))
        ids = self._encode(context)
        stream = prefill(self.model, ids, max_length=len(ids) + most)
        text = ""
        pieces = generate_text(
            self.model,
            self.tokenizer,
            stream,
            most,
            prompt=ids[1:].tolist(),
            sampling=_sampling(options),
            burst=min(BURST, most),
        )
        for piece in pieces:
            text += piece
            ends = [text.find(stop) for stop in stops if stop and stop in text]
            if ends:
                return text[: min(ends)]
        return text

    def _encode(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text.encode())
        return np.concatenate([np.array([self.tokenizer.start_token], np.int32), ids])


def _sampling(options: dict[str, Any]) -> Sampling:
    if not options.get("do_sample", False):
        return GREEDY
    return Sampling(
        temperature=float(options.get("temperature", 1.0)),
        top_k=int(options.get("top_k", 0)),
        top_p=float(options.get("top_p", 1.0)),
    )
