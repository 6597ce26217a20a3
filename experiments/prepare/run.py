"""A whole preparation: its units on several processes, what is missing from an earlier start, and the manifest.

Every file is decided by the plan and made by one unit, so the number of workers and the order in which they finish
change nothing. The manifest is written last: without it, the folder is not prepared.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.lock import lock
from experiments.prepare.held_out import NEAR, Rule, rule_for
from experiments.prepare.plan import Plan, claim, write_whole
from experiments.prepare.shard_maker import (
    EMPTY,
    INVALID_UTF8,
    UNFINISHED,
    UnitReport,
    held_out_files,
    read_report,
)
from experiments.prepare.workers import Maker
from titans_jax.data.prepared import (
    MANIFEST,
    VALID_TABLE,
    VALID_TEXT,
    Manifest,
    open_prepared,
)
from titans_jax.data.tokenizers import Tokenizer, load_tokenizer


class Outcome(NamedTuple):
    """What `prepare` did."""

    manifest: Manifest
    kept: int  # shards that were there already
    made: int


def prepare(
    plan: Plan,
    folder: Path,
    tokenizer_spec: str,
    workers: int,
    progress: Callable[[int], object],
) -> Outcome:
    """Makes what is missing of a plan.

    Args:
      plan: what to do.
      folder: the output folder; empty, missing, or of the same plan.
      tokenizer_spec: for `load_tokenizer`; the plan's.
      workers: processes; 1 works in this one.
      progress: is told the weight of the input that has been dealt with, bit by bit.

    Raises:
      ValueError: a document cannot be read, the folder is another's, or nothing is left to train on.
      OSError: a file cannot be read or written.
      RuntimeError: a worker died.
    """
    tokenizer = load_tokenizer(tokenizer_spec)
    folder = folder.expanduser()
    claim(folder, plan)
    with lock(folder, f"--output={folder}"):
        if (folder / MANIFEST).is_file():
            manifest = open_prepared(folder).manifest
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            progress(sum(map(_weight, plan.units)))
            return Outcome(manifest, len(plan.units), 0)
        found = {n: read_report(folder, n, tokenizer.vocab_size) for n in range(len(plan.units))}
        reports = {n: report for n, report in found.items() if report is not None}
        kept = len(reports)
        progress(sum(_weight(plan.units[n]) for n in reports))
        first = rule_for(plan.settings.valid_fraction)
        missing = {n: first for n in found.keys() - reports.keys()}
        make = Maker(plan, folder, tokenizer, tokenizer_spec, workers)
        reports |= make(missing, progress)
        reports |= make(_again(plan, reports), lambda weight: None)
        manifest = _finish(plan, folder, tokenizer, [reports[n] for n in sorted(reports)])
        return Outcome(manifest, kept, len(missing))


def _again(plan: Plan, reports: Mapping[int, UnitReport]) -> dict[int, Rule]:
    """Units to make again because whole documents hold out too little or too much: of every document the tail.

    So it is with few documents, with one that is much larger than the others, and with copies of one.
    """
    fraction = plan.settings.valid_fraction
    rule = Rule(0, fraction)
    held_out = sum(report.valid.size for report in reports.values())
    trained_on = sum(r.shard.text_bytes for r in reports.values() if r.shard is not None)
    wanted = fraction * (held_out + trained_on)
    near = wanted / NEAR <= held_out <= wanted * NEAR
    begun = any(report.rule.tail for report in reports.values())
    if not fraction or (near and trained_on and not begun):
        return {}
    return {
        n: rule for n, r in reports.items() if r.rule != rule and (r.shard or r.valid.documents)
    }


def _finish(
    plan: Plan, folder: Path, tokenizer: Tokenizer, reports: Sequence[UnitReport]
) -> Manifest:
    """Joins what was held out, writes the manifest, and removes what is no longer needed."""
    irregular: dict[str, Counter[str]] = {}
    for report in reports:
        for file, numbers in report.irregular.items():
            irregular.setdefault(file, Counter()).update(numbers)
    shards = tuple(report.shard for report in reports if report.shard is not None)
    held_out = sum(report.valid.documents for report in reports)
    if not shards:
        raise ValueError(
            "there is nothing to train on: all documents are empty, or too short to hold out a part of them "
            f"(--valid_fraction={plan.settings.valid_fraction}); give more text"
        )
    if plan.settings.valid_fraction and not held_out:
        raise ValueError(
            f"--valid_fraction={plan.settings.valid_fraction} of this text is less than one character of any document: "
            "nothing would be held out; give a larger fraction, or 0"
        )
    text_files, tables = zip(*(held_out_files(folder, n) for n in range(len(reports))), strict=True)
    with (folder / VALID_TEXT).open("wb") as joined:
        for path in text_files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined)
    np.save(folder / VALID_TABLE, np.concatenate([np.load(path) for path in tables]))

    def total(what: str) -> int:
        return sum(numbers[what] for numbers in irregular.values())

    manifest = Manifest(
        tokenizer=plan.tokenizer,
        vocab_size=tokenizer.vocab_size,
        start_token=tokenizer.start_token,
        counts={
            "files": len(plan.files),
            "documents": sum(shard.documents for shard in shards),
            "tokens": sum(shard.tokens for shard in shards),
            "bytes": sum(shard.text_bytes for shard in shards),
            EMPTY: total(EMPTY),
            INVALID_UTF8: total(INVALID_UTF8),
        },
        irregular={file: dict(numbers) for file, numbers in irregular.items()},
        settings=vars(plan.settings),
        shards=shards,
        valid_documents=held_out,
        valid_bytes=(folder / VALID_TEXT).stat().st_size,
        valid_sha256=hashlib.sha256((folder / VALID_TABLE).read_bytes()).hexdigest(),
    )
    write_whole(folder / MANIFEST, manifest.to_json())
    shutil.rmtree(folder / UNFINISHED)
    return manifest


def _weight(unit: Sequence) -> int:
    return sum(part.weight for part in unit)
