"""Windows of text, and bits per byte of a model whose bits are known."""

import math

import numpy as np
import pytest

from experiments.language_modeling.bits_per_byte import (
    Windows,
    beginning,
    bits_per_byte,
    cut_off,
    encode,
    find_texts,
)
from experiments.language_modeling.named_models import NAMES, make_models
from experiments.language_modeling.task import TextConfig, TextTask
from tests.experiments.language_modeling.toy_model import EVEN, LIKELY, UNLIKELY, Bigram
from tests.experiments.toy_data import write_data
from titans_jax import preset
from titans_jax.data import ByteTokenizer
from titans_jax.matching import count_parameters

BYTES = ByteTokenizer()


@pytest.mark.parametrize("length", [2, 3, 64])
def test_every_byte_is_counted_once(length):
    text = encode(b"abacbab", BYTES)
    # Windows do not see what was before them, but this model needs the last byte alone.
    bits = [EVEN, LIKELY, EVEN, UNLIKELY, EVEN, EVEN, LIKELY]
    expected = -sum(map(math.log2, bits)) / 7
    np.testing.assert_allclose(bits_per_byte(Bigram(), text, length, 8), expected, rtol=1e-6)


def test_a_window_is_a_piece_of_a_text_and_the_same_again():
    texts = [encode(bytes(range(97, 117)), BYTES), encode(bytes(range(40, 45)), BYTES)]
    windows = Windows(texts, 4, 200)
    batch = windows.batch(3, seed=1)
    assert batch["inputs"].shape == batch["targets"].shape == batch["loss_mask"].shape == (200, 4)
    whole = [bytes(text.ids.tolist()) for text in texts]
    rows = np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
    found = [[bytes(row.tolist()) in text for text in whole] for row in rows]
    assert all(map(any, found))
    # As likely as they are long: 17 windows against 2.
    assert 5 < sum(second for _, second in found) < 45
    np.testing.assert_array_equal(batch["inputs"], windows.batch(3, seed=1)["inputs"])
    assert (batch["inputs"] != windows.batch(3, seed=2)["inputs"]).any()
    assert (batch["inputs"] != windows.batch(4, seed=1)["inputs"]).any()


def test_texts_are_cut_after_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthree\nfour\n")
    assert cut_off(path, 0.3) == (b"one\ntwo\n", b"three\nfour\n")
    assert beginning(path, 9) == b"one\ntwo\n"
    assert beginning(path, 0) == path.read_bytes()


def test_what_is_missing_or_too_short_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_\*"):
        find_texts(tmp_path, "text/train_*")
    with pytest.raises(ValueError, match="length=100"):
        Windows([encode(b"short", BYTES)], 100, 1)


def test_tests_are_not_trained_on_and_selection_is_neither(tmp_path):
    config = TextConfig(
        train="text/*.txt", valid_fraction=0.2, tests=("text/valid_*.txt",), length=32
    )
    task = TextTask(write_data(tmp_path), config)
    assert list(task.tests) == ["valid_1661"]
    assert task.describe()["files"] == [
        "train_1.txt",
        "train_2.txt",
        "wikitext103_valid.txt",
        "valid_1661.txt",
    ]
    results = task.evaluate(Bigram())
    assert 7 < results["selection"] < 9
    assert 7 < results["bits_per_byte"]["valid_1661"] < 9
    other = TextTask(tmp_path, config)
    assert other.describe() == task.describe()
    (tmp_path / "text" / "train_1.txt").write_text(
        "Other words, and more of them than fit in a line.\n" * 9
    )
    assert TextTask(tmp_path, config).describe() != task.describe()


def test_the_beginning_of_a_text_without_lines_is_whole_characters(tmp_path):
    path = tmp_path / "text"
    path.write_text("é你🙂" * 9)
    for size in range(1, 30):
        part = beginning(path, size)
        assert len(part) <= size
        assert part.decode() + path.read_bytes()[len(part) :].decode() == "é你🙂" * 9
        assert size - len(part) < 4


def test_all_models_are_of_one_size():
    base = preset("tiny", "lmm")
    sizes = {name: count_parameters(model) for name, model in make_models(NAMES, base).items()}
    assert max(sizes.values()) < 1.03 * min(sizes.values())
    with pytest.raises(ValueError, match=r"config\.models"):
        make_models(["lmn"], base)
