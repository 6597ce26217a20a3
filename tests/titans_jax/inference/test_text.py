"""Files as tokens and text as it comes, each held to what Python and the tokenizer make of the whole at once."""

import io

import numpy as np
import pytest
import sentencepiece
import tokenizers
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.titans_jax.models.tiny_models import tiny_config
from titans_jax.data.tokenizers import ByteTokenizer, load_tokenizer
from titans_jax.inference import (
    Sampling,
    continuation_text,
    file_tokens,
    generate,
    generate_text,
    prefill,
)
from titans_jax.inference.text import _Text
from titans_jax.models import Titans

SENTENCES = ["the killer was the cook of the house", "the cook was in the house"] * 40
KINDS = ("bytes", "sentencepiece.model", "byte_level.json", "byte_fallback.json")
#: ASCII, accents, Chinese, an emoji of several characters, white space.
TEXTS = st.text(st.sampled_from("thecook é你好🙂\u200d👩\n\t"), max_size=40)


@pytest.fixture(scope="module")
def model():
    return Titans(tiny_config("lmm", dtype="float32", vocab_size=256), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """Tokenizers of each kind, which know no character but those of two sentences."""
    folder = tmp_path_factory.mktemp("tokenizers")
    as_it_is = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    for name, options in (("sentencepiece.model", as_it_is), ("stripping.model", {})):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=model,
            vocab_size=300,
            model_type="bpe",
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        (folder / name).write_bytes(model.getvalue())
    byte_level = tokenizers.ByteLevelBPETokenizer()
    byte_level.train_from_iterator(SENTENCES, vocab_size=280, show_progress=False)
    byte_level.save(str(folder / "byte_level.json"))
    # As a SentencePiece model looks when it is converted.
    letters = "\u2581abcdefhiklnorstuw"
    names = [*(f"<0x{byte:02X}>" for byte in range(256)), *letters, "th", "the"]
    fallback = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {name: i for i, name in enumerate(names)},
            [("t", "h"), ("th", "e")],
            byte_fallback=True,
        )
    )
    fallback.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("\u2581"),
            tokenizers.normalizers.Replace(" ", "\u2581"),
        ]
    )
    fallback.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("\u2581", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    fallback.save(str(folder / "byte_fallback.json"))
    files = (*KINDS[1:], "stripping.model")
    return {"bytes": ByteTokenizer()} | {name: load_tokenizer(str(folder / name)) for name in files}


def whole_text(tokenizer, ids):
    return tokenizer.decode(ids).decode(errors="replace")


def streamed(tokenizer, ids, prompt=()):
    text = _Text(tokenizer, prompt)
    pieces = [text.append(token) for token in ids]
    return [*pieces, text.rest()]


@pytest.mark.parametrize("text", [b"", b"one\ntwo\n", b"no line break at all " * 9, b"x\n" * 50])
def test_the_pieces_of_a_file_are_the_file(tmp_path, text):
    path = tmp_path / "text"
    path.write_bytes(text)
    pieces = list(file_tokens(path, ByteTokenizer(), piece=16))
    assert max((p.size for p in pieces), default=0) <= 32
    assert bytes(np.concatenate([np.zeros(0, np.int32), *pieces]).tolist()) == text


def test_pieces_end_after_a_line_else_before_a_word(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"0123456789ab\nxyz and so on")
    first, *_ = file_tokens(path, ByteTokenizer(), piece=16)
    assert bytes(first.tolist()) == b"0123456789ab\n"
    path.write_bytes(b"0123456789ab xyz and so on")
    first, *_ = file_tokens(path, ByteTokenizer(), piece=13)
    assert bytes(first.tolist()) == b"0123456789ab"


@settings(max_examples=100)
@given(text=st.binary(max_size=60), mark=st.booleans(), piece=st.integers(1, 20))
def test_any_bytes_come_through_in_pieces(tmp_path_factory, text, mark, piece):
    assume(not text.startswith(b"\xef\xbb\xbf"))
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text)
    found = b"".join(bytes(p.tolist()) for p in file_tokens(path, ByteTokenizer(), piece=piece))
    assert found == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(text=TEXTS, mark=st.booleans(), piece=st.integers(1, 20))
def test_no_piece_cuts_a_character_or_gains_a_space(
    tokenizer_of, tmp_path_factory, kind, text, mark, piece
):
    path = tmp_path_factory.getbasetemp() / "text"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    ids = [int(i) for part in file_tokens(path, tokenizer_of[kind], piece=piece) for i in part]
    assert tokenizer_of[kind].decode(ids).decode() == text


@pytest.mark.parametrize("kind", KINDS[:3])
@settings(max_examples=100)
@given(data=st.data())
def test_streamed_text_is_the_text_of_the_tokens(tokenizer_of, kind, data):
    tokenizer = tokenizer_of[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    assert "".join(streamed(tokenizer, ids)) == whole_text(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(text=TEXTS, cut=st.floats(0, 1))
def test_a_prompt_and_the_text_after_it_are_one_text(tokenizer_of, kind, text, cut):
    tokenizer = tokenizer_of[kind]
    ids = tokenizer.encode(text.encode())
    prompt, rest = np.split(ids, [round(cut * len(ids))])
    before = whole_text(tokenizer, prompt)
    assume(not before.endswith("\ufffd"))  # no prompt ends within a character
    after = text[len(before) :]
    assert "".join(streamed(tokenizer, rest, prompt)) == after
    assert continuation_text(tokenizer, prompt, rest) == after


def test_spaces_alone_are_no_context(tokenizer_of):
    """A decoder may take all spaces away from the beginning of what it is given."""
    tokenizer = tokenizer_of["stripping.model"]
    space, word = (tokenizer._processor.piece_to_id(p) for p in ("\u2581", "\u2581the"))
    ids = [word, space, space, word, space, word]
    assert whole_text(tokenizer, ids) == "the   the  the"
    assert "".join(streamed(tokenizer, ids)) == "the   the  the"
    prompt = [word, *[space] * 20]
    assert continuation_text(tokenizer, prompt, [word]) == " the"


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_comes_when_its_last_token_does(tokenizer_of, kind):
    tokenizer = tokenizer_of[kind]
    ids = tokenizer.encode("the 你好 cook".encode())
    pieces = streamed(tokenizer, ids)
    for end in range(1, len(ids) + 1):
        text = whole_text(tokenizer, ids[:end])
        if not text.endswith("\ufffd"):
            assert "".join(pieces[:end]) == text
    assert pieces[-1] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_word_after_a_prompt_keeps_its_space(tokenizer_of, kind):
    """However long the prompt is, and whatever it ends with that decoders do not show."""
    tokenizer = tokenizer_of[kind]
    for prompt, rest in (
        ("the killer was", " the cook"),
        ("the" + " " * 20, " cook"),
        ("你好", " the"),
        (
            "你好你好",
            "你 the",
        ),  # some decoders show no character of a run of bytes that begins within one
    ):
        ids = tokenizer.encode((prompt + rest).encode())
        (start,) = (n for n in range(len(ids)) if whole_text(tokenizer, ids[:n]) == prompt)
        assert continuation_text(tokenizer, ids[:start], ids[start:]) == rest


def test_decoding_again_does_not_grow_with_the_text(tokenizer_of):
    tokenizer, most = tokenizer_of["sentencepiece.model"], 0

    class Counting:
        def decode(self, ids):
            nonlocal most
            most = max(most, len(ids))
            return tokenizer.decode(ids)

    ids = tokenizer.encode(("the cook 你好 " * 40).encode())
    assert "".join(streamed(Counting(), ids)) == whole_text(tokenizer, ids)
    assert most < 16


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
