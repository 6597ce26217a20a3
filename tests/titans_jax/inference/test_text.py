"""Files as tokens and text as it comes."""

import numpy as np
import pytest
from flax import nnx

from tests.titans_jax.models.tiny_models import tiny_config
from titans_jax.data.tokenizers import ByteTokenizer
from titans_jax.inference import Sampling, file_tokens, generate, generate_text, prefill
from titans_jax.models import Titans


@pytest.fixture(scope="module")
def model():
    return Titans(tiny_config("lmm", dtype="float32", vocab_size=256), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("text", [b"", b"one\ntwo\n", b"no line break at all " * 9, b"x\n" * 50])
def test_the_pieces_of_a_file_are_the_file(tmp_path, text):
    path = tmp_path / "text"
    path.write_bytes(text)
    pieces = list(file_tokens(path, ByteTokenizer(), piece=16))
    assert max((p.size for p in pieces), default=0) <= 32
    assert bytes(np.concatenate([np.zeros(0, np.int32), *pieces]).tolist()) == text


def test_pieces_end_after_a_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"0123456789ab\nxyz and so on")
    first, *_ = file_tokens(path, ByteTokenizer(), piece=16)
    assert bytes(first.tolist()) == b"0123456789ab\n"


def test_text_comes_as_whole_characters(model):
    """An untrained model writes bytes at random: few of them are characters."""
    sampling = Sampling(temperature=2.0)
    tokens = generate(model, prefill(model, [65]), 64, sampling, seed=1).tokens[0]
    pieces = list(
        generate_text(
            model, ByteTokenizer(), prefill(model, [65]), 64, sampling=sampling, seed=1, burst=16
        )
    )
    assert all(pieces)
    assert "".join(pieces) == bytes(tokens.tolist()).decode(errors="replace")
    assert len(pieces) > 16


def test_text_of_several_sequences_is_refused(model):
    stream = prefill(model, [[65], [66]])
    with pytest.raises(ValueError, match="stream must hold one sequence, got 2"):
        next(generate_text(model, ByteTokenizer(), stream, 4))
