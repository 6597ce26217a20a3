"""A whole preparation: its units on several processes, what is missing from an earlier start, and the manifest.

Every file is decided by the plan and made by one unit, so the number of workers and the order in which they finish
change nothing. The manifest is written last: without it, the folder is not prepared.
"""

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.prepare.held_out import Rule, rule_for
from experiments.prepare.plan import Plan, claim, write_whole
from experiments.prepare.shard_maker import (
    EMPTY,
    INVALID_UTF8,
    UNFINISHED,
    UnitReport,
    held_out_files,
    make_unit,
    read_report,
)
from titans_jax.data.prepared import (
    MANIFEST,
    PLAN,
    VALID_TABLE,
    VALID_TEXT,
    Manifest,
    open_prepared,
)
from titans_jax.data.tokenizers import Tokenizer, load_tokenizer

# Loaded once in the process that workers are forked from.
_WORKER_MODULE = "experiments.prepare.run"


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
    claim(folder, plan)
    with _alone(folder):
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
        make = _Maker(plan, folder, tokenizer, tokenizer_spec, workers)
        reports |= make(missing, progress)
        for again in (_to_hold_out, _to_train_on):
            reports |= make(again(plan, reports), lambda weight: None)
        manifest = _finish(plan, folder, tokenizer, [reports[n] for n in sorted(reports)])
        return Outcome(manifest, kept, len(missing))


class _Maker:
    """Makes units, here or in worker processes."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        tokenizer: Tokenizer,
        tokenizer_spec: str,
        workers: int,
    ):
        self._plan, self._folder, self._workers = plan, folder, workers
        self._tokenizer, self._spec = tokenizer, tokenizer_spec

    def __call__(
        self, units: Mapping[int, Rule], progress: Callable[[int], object]
    ) -> dict[int, UnitReport]:
        """Makes units, each by its rule."""
        workers = min(self._workers, len(units))
        if workers <= 1:
            return {
                n: make_unit(self._plan, n, self._tokenizer, self._folder, units[n], progress)
                for n in sorted(units)
            }
        # Forked from a process that has only imported: neither threads nor devices of this one come along.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_WORKER_MODULE])
        done, stop = context.Value("q", 0), context.RawValue("b", False)
        arguments = self._plan, self._spec, self._folder, done, stop
        pool = ProcessPoolExecutor(workers, context, _start_worker, arguments)
        try:
            futures = {n: pool.submit(_work, n, units[n]) for n in sorted(units)}
            seen, unfinished = 0, set(futures.values())
            while unfinished:
                finished, unfinished = wait(unfinished, timeout=0.5, return_when=FIRST_EXCEPTION)
                now = done.value
                progress(now - seen)
                seen = now
                for future in finished:
                    future.result()  # raises what the worker raised
            return {n: future.result() for n, future in futures.items()}
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, perhaps for want of memory; give the command again, with fewer --workers: "
                "finished shards are kept"
            ) from error
        finally:
            stop.value = True
            pool.shutdown(cancel_futures=True)


class _StoppedError(Exception):
    """Another unit failed, or the user has interrupted: what this worker makes is not wanted."""


def _start_worker(
    plan: Plan, tokenizer_spec: str, folder: Path, done: Synchronized, stop: c_byte
) -> None:
    global _make
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the parent too, which says `stop`
    tokenizer = load_tokenizer(tokenizer_spec)

    def progress(weight: int) -> None:
        if stop.value:
            raise _StoppedError
        with done.get_lock():
            done.value += weight

    def make(number: int, rule: Rule) -> UnitReport:
        return make_unit(plan, number, tokenizer, folder, rule, progress)

    _make = make
    threading.Thread(target=_end_with_parent, daemon=True).start()


_make: Callable[[int, Rule], UnitReport]


def _work(number: int, rule: Rule) -> UnitReport:
    return _make(number, rule)


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait for ever, or write where the next start writes.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _to_hold_out(plan: Plan, reports: Mapping[int, UnitReport]) -> dict[int, Rule]:
    """Units to make again so that something is held out: the document with the lowest key, and its copies.

    With few documents it may well be that no key is low enough.
    """
    first = rule_for(plan.settings.valid_fraction)
    keys = {n: r.lowest_key for n, r in reports.items() if r.lowest_key is not None}
    # Higher than at first if an earlier start got as far as here, and then maybe not through all units.
    below = max((report.rule.below for report in reports.values()), default=0)
    held_out = any(report.valid.documents for report in reports.values())
    if plan.settings.valid_fraction and keys and not held_out and below == first.below:
        below = min(keys.values()) + 1
    return {n: Rule(below) for n, key in keys.items() if key < below}


def _to_train_on(plan: Plan, reports: Mapping[int, UnitReport]) -> dict[int, Rule]:
    """Units to make again so that not all is held out: of every document the tail.

    So it is with a single document, or nothing but copies of one.
    """
    rule = Rule(0, plan.settings.valid_fraction)
    some_shard = any(report.shard is not None for report in reports.values())
    begun = any(report.rule.tail for report in reports.values())
    if not plan.settings.valid_fraction or (some_shard and not begun):
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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second preparation out of the folder; the lock goes with the process, however it ends."""
    with (folder / PLAN).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--output={folder}: another preparation is at work there") from error
        yield
