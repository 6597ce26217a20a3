"""Yardsticks against texts whose entropy is known."""

import argparse
import inspect
import lzma
import random

import pytest

from tests.tolerances import OUTPUT_F64
from titans_jax.data.yardsticks import lzma_bits_per_byte, order0_bits_per_byte


@pytest.mark.parametrize(
    ("data", "bits"),
    [(b"aaaa", 0.0), (b"ab" * 9, 1.0), (bytes(range(256)), 8.0), (b"aaab", 0.8112781244591328)],
)
def test_order0_is_the_entropy_of_the_byte_counts(data, bits):
    assert order0_bits_per_byte(data) == pytest.approx(bits, abs=OUTPUT_F64)


def test_lzma_is_the_size_that_can_be_decompressed():
    text = inspect.getsource(argparse).encode()
    size = lzma_bits_per_byte(text) * len(text) / 8
    assert size == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert lzma_bits_per_byte(text) < order0_bits_per_byte(text)


def test_noise_does_not_compress():
    assert 8.0 < lzma_bits_per_byte(random.Random(0).randbytes(10_000)) < 8.2


@pytest.mark.parametrize("yardstick", [order0_bits_per_byte, lzma_bits_per_byte])
def test_no_text_has_no_yardstick(yardstick):
    with pytest.raises(ValueError, match="empty"):
        yardstick(b"")
