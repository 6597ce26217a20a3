"""Places between characters, against Python's own decoder."""

from hypothesis import given, settings
from hypothesis import strategies as st

from titans_jax.data.characters import character_start, text_size


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_a_text_is_cut_between_characters_and_not_before_the_last_one_that_fits(text, place):
    whole = text.encode()
    position = int(place * len(whole))
    start = character_start(whole, position)
    assert whole[:start].decode() + whole[start:].decode() == text
    assert start <= position < start + len(whole[start:].decode()[0].encode())


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_bytes_that_are_no_text_are_cut_near_where_they_are(whole, place):
    position = int(place * len(whole))
    assert position - 3 <= character_start(whole, position) <= position


def test_a_byte_order_mark_is_no_part_of_a_texts_size(tmp_path):
    for content, size in ((b"\xef\xbb\xbfIt was", 6), (b"It was", 6), (b"\xef\xbb", 2), (b"", 0)):
        (tmp_path / "text").write_bytes(content)
        assert text_size(tmp_path / "text") == size
