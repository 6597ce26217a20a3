"""The DNA tokenizer: letters survive, strands are each other's reverse complement, wrong letters are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_jax.data.nucleotides import AMBIGUITY_CODES, NucleotideTokenizer

PARTNER = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}
PARTNER |= {letter.lower(): other.lower() for letter, other in PARTNER.items()}
sequences = st.text("ACGTNacgtn", max_size=20).map(str.encode)


@given(sequences)
def test_letters_survive_with_their_case_if_it_is_kept(text):
    kept, folded = NucleotideTokenizer(keep_case=True), NucleotideTokenizer()
    assert kept.decode(kept.encode(text)) == text
    assert folded.decode(folded.encode(text)) == text.upper()
    for tokenizer in (kept, folded):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert {tokenizer.start_token, tokenizer.mask_token}.isdisjoint(ids.tolist())


def test_every_id_is_used_once():
    for keep_case, size in ((False, 7), (True, 12)):
        tokenizer = NucleotideTokenizer(keep_case)
        assert tokenizer.vocab_size == size
        specials = {tokenizer.start_token, tokenizer.mask_token}
        assert specials == {size - 2, size - 1}
        assert set(tokenizer.encode(b"ACGTNacgtn").tolist()) | specials == set(range(size))


@given(sequences, st.booleans())
def test_the_other_strand_is_the_reverse_complement(text, keep_case):
    tokenizer = NucleotideTokenizer(keep_case)
    ids = tokenizer.encode(text)
    other = tokenizer.reverse_complement(ids)
    wanted = "".join(PARTNER[letter] for letter in reversed(text.decode()))
    assert tokenizer.decode(other) == (wanted if keep_case else wanted.upper()).encode()
    np.testing.assert_array_equal(tokenizer.reverse_complement(np.stack([ids, other]))[1], ids)


def test_a_hidden_nucleotide_stays_hidden_on_the_other_strand():
    tokenizer = NucleotideTokenizer()
    ids = np.array([tokenizer.start_token, 0, tokenizer.mask_token])
    assert tokenizer.decode(tokenizer.reverse_complement(ids)) == b"_T^"


def test_codes_for_several_nucleotides_are_n_or_refused():
    text = AMBIGUITY_CODES + AMBIGUITY_CODES.lower()
    assert (
        NucleotideTokenizer(keep_case=True).decode(NucleotideTokenizer(keep_case=True).encode(text))
        == b"N" * 10 + b"n" * 10
    )
    with pytest.raises(ValueError, match=r"letter 'r' at position 3 .*ambiguous='N'"):
        NucleotideTokenizer(ambiguous="refuse").encode(b"ACrT")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"ACGU", "letter 'U' at position 4 .*write T for U"),
        (b"AC-T", "letter '-' at position 3 .*ACGTN or IUPAC"),
        (b"AC\n", r"letter '\\n' at position 3"),
        (b"\xffA", r"letter '\\\\xff' at position 1"),
    ],
)
def test_what_is_no_nucleotide_is_named_with_its_position(text, message):
    with pytest.raises(ValueError, match=message):
        NucleotideTokenizer().encode(text)


def test_wrong_ids_and_rules_are_named():
    with pytest.raises(ValueError, match=r"token id 7 is outside .* of 7"):
        NucleotideTokenizer().decode([0, 7])
    with pytest.raises(ValueError, match=r"ambiguous must be one of \('N', 'refuse'\), got 'keep'"):
        NucleotideTokenizer(ambiguous="keep")


def test_fingerprints_tell_rules_apart():
    makers = [
        NucleotideTokenizer(),
        NucleotideTokenizer(True),
        NucleotideTokenizer(False, "refuse"),
    ]
    assert len({tokenizer.fingerprint() for tokenizer in makers}) == 3
    assert NucleotideTokenizer().fingerprint() == makers[0].fingerprint()
