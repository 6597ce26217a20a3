"""Splits: no k-mer is in two parts, on either strand; the parts are as large as they should be."""

import itertools

import numpy as np
import pytest

from experiments.genomics.leak_free_split import K, groups, kmers, split
from experiments.genomics.tasks import load_task
from tests.experiments.genomics.toy_task import letters, write_table
from titans_jax.data import NucleotideTokenizer

TOKENIZER = NucleotideTokenizer()


def random_ids(count, length, seed=0):
    return list(np.random.default_rng(seed).integers(0, 4, (count, length), dtype=np.int32))


def naive_kmers(ids):
    found = set()
    for strand in (ids, TOKENIZER.reverse_complement(ids)):
        text = TOKENIZER.decode(strand)
        found |= {text[i : i + K] for i in range(len(text) - K + 1)}
    return {word for word in found if b"N" not in word}


def test_kmers_are_those_of_both_strands():
    first, second = random_ids(2, 50)
    first[7] = 4  # N
    own = kmers(first)
    assert len(own) == len(first) - K + 1 - 8
    np.testing.assert_array_equal(np.sort(own), np.sort(kmers(TOKENIZER.reverse_complement(first))))
    assert not np.isin(own, kmers(second)).any()
    assert kmers(first[: K - 1]).size == 0


def test_groups_are_connected_components():
    one, two, three, four = random_ids(4, 40)
    chain = np.concatenate([one[-35:], two[:35]])  # shares a k-mer with both
    other_strand = TOKENIZER.reverse_complement(three)
    near = np.concatenate([four[: K - 1], 3 - four[K - 1 :]])  # one nucleotide too few
    short = np.array([0, 1, 2], np.int32)
    other_short = TOKENIZER.reverse_complement(short)
    found = groups([one, two, chain, three, other_strand, four, near, short, other_short])
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert found[7] == found[8]
    assert len(set(found)) == 5


def test_parts_have_their_sizes_and_the_first_the_largest_group():
    group = np.concatenate([np.zeros(100, int), np.arange(1, 901)])
    parts = split(group, 0)
    assert [len(rows) for rows in parts.values()] == [700, 100, 200]
    assert np.isin(np.arange(100), parts["train"]).all()
    other = split(group, 1)
    assert set(parts["test"]) != set(other["test"])
    np.testing.assert_array_equal(split(group, 0)["test"], parts["test"])
    with pytest.raises(ValueError, match="sequences must be enough"):
        split(np.zeros(5, int), 0)


def test_no_part_of_a_task_shares_a_kmer_with_another(tmp_path):
    write_table(tmp_path / "toy.csv")
    task = load_task("toy", tmp_path, TOKENIZER)
    assert task.description["demonstration"]
    parts = (task.train, task.valid, task.test)
    assert [len(part.labels) for part in parts] == [41, 6, 13]
    words = [
        set().union(*(naive_kmers(strands[0].astype(np.int32)) for strands in part.strands))
        for part in parts
    ]
    for first, second in itertools.combinations(words, 2):
        assert not first & second
    assert task.description["groups"] == 40  # 20 of 60 overlap their predecessor


def test_sequences_of_different_lengths_are_filled_up_on_both_strands(tmp_path):
    generator = np.random.default_rng(2)
    rows = [f"{letters(generator, 3 if number % 5 else 8)},{number % 2}" for number in range(40)]
    (tmp_path / "toy.csv").write_text("\n".join(["seq,label", *rows]))
    task = load_task("toy", tmp_path, TOKENIZER)
    lengths = np.concatenate([part.lengths for part in (task.train, task.valid, task.test)])
    assert sorted(lengths) == [3] * 32 + [8] * 8
    for strands, length in zip(task.train.strands, task.train.lengths, strict=True):
        assert (strands[:, length:] == TOKENIZER.encode(b"N")).all()
        other = TOKENIZER.reverse_complement(strands[0, :length])
        np.testing.assert_array_equal(strands[1, :length], other)


def test_official_folders_keep_their_test_and_say_what_it_shares(tmp_path):
    generator = np.random.default_rng(1)
    whole = [letters(generator, 50) for _ in range(44)]
    folder = tmp_path / "genomic" / "human_nontata_promoters"
    folder.mkdir(parents=True)
    lines = [f"{sequence},{number % 2}" for number, sequence in enumerate(whole)]
    (folder / "train.csv").write_text("\n".join(["seq,label", *lines[:40]]))
    (folder / "test.csv").write_text("\n".join(["seq,label", *lines[39:]]))
    task = load_task("nontata_promoters", tmp_path, TOKENIZER)
    assert task.description["sizes"] == {"train": 36, "valid": 4, "test": 5}
    assert task.description["test_sharing_32_with_train"] == 1
    assert not task.description["demonstration"]


def test_tasks_that_are_not_there_or_hold_no_dna(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"task 'promoters': none of .*human_promoters"):
        load_task("promoters", tmp_path, TOKENIZER)
    (tmp_path / "toy.csv").write_text("seq,label\nACGT,0\nACGU,1\n")
    with pytest.raises(ValueError, match=r"toy.csv, row 2: letter 'U' at position 4"):
        load_task("toy", tmp_path, TOKENIZER)
