"""Every tokenizer against the same law: text goes to ids and back, and a bad file or text is named."""

import builtins
import io

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from titans_jax.data.sources import Document
from titans_jax.data.tokenizers import ByteTokenizer, load_tokenizer, tokenize

SENTENCES = ["the memory learns what surprises it", "def main(): return 0", "naïve café, 10 €"] * 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tokenizer files of each kind, trained on a few sentences."""
    folder = tmp_path_factory.mktemp("tokenizers")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "sp.model").write_bytes(model.getvalue())
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=["<s>"], show_progress=False)
    # As most published files do, it asks for a start token in front of every text.
    bpe._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    bpe.save(str(folder / "hf.json"))
    return folder


@pytest.fixture(params=["bytes", "sp.model", "hf.json"])
def tokenizer(request, files):
    return load_tokenizer("bytes" if request.param == "bytes" else str(files / request.param))


@pytest.mark.parametrize(
    "text", ["the memory", "  two  spaces\n\nand lines\t", "unseen: 日本語 ✓", "naïve café", "x"]
)
def test_text_survives_the_round_trip(tokenizer, text):
    ids = tokenizer.encode(text.encode())
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == text.encode()


def test_empty_text_has_no_tokens(tokenizer):
    assert tokenizer.encode(b"").shape == (0,)
    assert tokenizer.decode([]) == b""


def test_no_special_token_is_added_and_the_start_token_is_an_id(tokenizer):
    assert tokenizer.start_token not in tokenizer.encode(b"the memory learns")
    assert 0 <= tokenizer.start_token < tokenizer.vocab_size


@pytest.mark.parametrize("name", ["sp.model", "hf.json"])
@pytest.mark.parametrize("text", ["ends with <s> and", "</s>", "<unk><0x41>", "<|endoftext|>"])
def test_text_that_spells_a_special_token_is_text(files, name, text):
    tokenizer = load_tokenizer(str(files / name))
    ids = tokenizer.encode(text.encode())
    assert tokenizer.start_token not in ids
    assert tokenizer.decode(ids) == text.encode()


def test_a_special_token_that_text_spells_has_the_tokens_of_any_text(tmp_path):
    """Not one for each of its characters, of which this model has none."""
    names = ["[UNK]", "[CLS]", "[", "]", "CL", "##S"]
    pieces = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    pieces.add_special_tokens(["[UNK]", "[CLS]"])
    pieces.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(str(tmp_path / "t.json"))
    assert tokenizer.encode(b"[CLS]").tolist() == [2, 4, 5, 3]
    assert tokenizer.encode(b"[SEP]").tolist() == [2, 0, 3]


def test_a_special_token_that_the_model_itself_knows_is_spelt_by_its_characters(tmp_path):
    """Its score is the greatest, as in what is converted from SentencePiece's unigram models."""
    names = ["<unk>", "</s>", "a", " ", "<", "/", "s"]
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(name, 0.0 if len(name) > 1 else -3.0) for name in names], 0)
    )
    unigram.add_special_tokens(["</s>", "<unk>"])
    unigram.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="the text spells '</s>', which is a special token"):
        tokenizer.encode(b"a</s>a")  # there is no > by itself
    assert tokenizer.encode("aé".encode()).tolist() == [2, 0]  # unknown is unknown
    unigram = tokenizers.Tokenizer(
        tokenizers.models.Unigram(
            [*((name, -3.0) for name in names[2:]), (">", -3.0), ("</s>", 0.0)]
        )
    )
    unigram.add_special_tokens(["</s>"])
    unigram.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(str(tmp_path / "t.json"))
    assert tokenizer.encode(b"a</s>a").tolist() == [0, 2, 3, 4, 5, 0]


def test_merged_tokens_are_fewer_than_bytes(files):
    for name in ("sp.model", "hf.json"):
        assert len(load_tokenizer(str(files / name)).encode(b"the memory learns")) < 17


@settings(max_examples=50)
@given(st.binary(max_size=50))
def test_bytes_are_lossless_for_any_bytes(text):
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


def test_fingerprints_are_stable_and_tell_tokenizers_apart(files, tmp_path):
    specs = ["bytes", str(files / "sp.model"), str(files / "hf.json")]
    prints = [load_tokenizer(spec).fingerprint() for spec in specs]
    assert prints == [load_tokenizer(spec).fingerprint() for spec in specs]
    assert len(set(prints)) == 3
    copy = tmp_path / "renamed.model"
    copy.write_bytes((files / "sp.model").read_bytes())
    assert load_tokenizer(str(copy)).fingerprint() == prints[1]


def test_tokenize_puts_a_start_token_first_and_counts_tokens_and_bytes(tokenizer):
    texts = [b"the memory", "café €".encode()]
    result = tokenize([Document(str(i), text) for i, text in enumerate(texts)], tokenizer)
    assert [tokenizer.decode(document[1:]) for document in result.documents] == texts
    assert all(document[0] == tokenizer.start_token for document in result.documents)
    assert all(document.dtype == np.int32 for document in result.documents)
    assert result.target_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    assert result.target_bytes == 10 + 9


def test_truncation_and_padding_that_a_file_asks_for_are_ignored(files, tmp_path):
    asking = tokenizers.Tokenizer.from_file(str(files / "hf.json"))
    asking.enable_truncation(4)
    asking.enable_padding(length=8)
    asking.save(str(tmp_path / "asking.json"))
    text = b"the memory learns what surprises it"
    ids = load_tokenizer(str(tmp_path / "asking.json")).encode(text)
    np.testing.assert_array_equal(ids, load_tokenizer(str(files / "hf.json")).encode(text))


@pytest.mark.parametrize("name", ["sp.model", "hf.json"])
def test_text_that_is_not_utf8_is_refused_by_name(files, name):
    with pytest.raises(ValueError, match=r"document 'bad\.txt'.*not UTF-8 \(byte 2.*'bytes'"):
        tokenize([Document("bad.txt", b"ab\xff")], load_tokenizer(str(files / name)))


@pytest.mark.parametrize("token", [-1, 10_000])
def test_an_id_outside_the_vocabulary_is_named(tokenizer, token):
    with pytest.raises(ValueError, match=f"token id {token} .*{tokenizer.vocab_size}"):
        tokenizer.decode([1, token])


@pytest.mark.parametrize("name", ["missing.model", "missing.json"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"damaged", b"{}"])
@pytest.mark.parametrize("name", ["bad.model", "bad.json"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read.*damaged"):
        load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize("name", ["sp.model", "hf.json"])
def test_half_a_file_is_damaged(files, tmp_path, name):
    whole = (files / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=name):
        load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize("spec", ["byte", "gpt2", "vocab.txt", ""])
def test_an_unknown_tokenizer_is_told_what_there_is(spec):
    with pytest.raises(ValueError, match=f"unknown tokenizer '{spec}'.*'bytes'.*SentencePiece"):
        load_tokenizer(spec)


@pytest.mark.parametrize(
    ("name", "library"), [("sp.model", "sentencepiece"), ("hf.json", "tokenizers")]
)
def test_a_library_that_is_not_installed_is_named(files, name, library, monkeypatch):
    real_import = builtins.__import__

    def without(module, *args, **kwargs):
        if module == library:
            raise ImportError(module)
        return real_import(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"{library}.*titans-jax\[text\]"):
        load_tokenizer(str(files / name))
