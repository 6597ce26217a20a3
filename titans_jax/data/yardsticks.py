"""What a language model must beat: how well simple methods compress the same bytes, in bits per byte."""

import lzma

import numpy as np


def order0_bits_per_byte(data: bytes) -> float:
    """Entropy of single bytes: the best code that knows how often each byte occurs here, and nothing of context.

    Args:
      data: the text that the model is evaluated on.

    Returns:
      Bits per byte, between 0 and 8.

    Raises:
      ValueError: `data` is empty.
    """
    _require_text(data)
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    frequencies = counts[counts > 0] / len(data)
    return float(-(frequencies * np.log2(frequencies)).sum()) + 0.0


def lzma_bits_per_byte(data: bytes) -> float:
    """Size of the text after `lzma` at its strongest setting, which sees all of the text before each byte.

    Args:
      data: the text that the model is evaluated on.

    Returns:
      Compressed bits per byte of text, container included.

    Raises:
      ValueError: `data` is empty.
    """
    _require_text(data)
    return 8.0 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def _require_text(data: bytes) -> None:
    if not data:
        raise ValueError("data is empty; a yardstick needs at least one byte of text")
