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
        missing = dict.fromkeys(found.keys() - reports.keys())
        make = _Maker(plan, folder, tokenizer, tokenizer_spec, workers)
        reports |= make(missing, progress)
        reports |= make(_to_hold_out(plan, reports), lambda weight: None)
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
        self, units: Mapping[int, int | None], progress: Callable[[int], object]
    ) -> dict[int, UnitReport]:
        """Makes units; the values are `held_out_below` of `make_unit`."""
        workers = min(self._workers, len(units))
        if workers <= 1:
            return {
                n: make_unit(self._plan, n, self._tokenizer, self._folder, progress, units[n])
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

    def make(number: int, held_out_below: int | None) -> UnitReport:
        return make_unit(plan, number, tokenizer, folder, progress, held_out_below)

    _make = make
    threading.Thread(target=_end_with_parent, daemon=True).start()


_make: Callable[[int, int | None], UnitReport]


def _work(number: int, held_out_below: int | None) -> UnitReport:
    return _make(number, held_out_below)


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait for ever, or write where the next start writes.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _to_hold_out(plan: Plan, reports: Mapping[int, UnitReport]) -> dict[int, int]:
    """Units to make again so that something is held out: the document with the lowest key, and its copies.

    With few documents it may well be that no key is low enough.
    """
    keys = [report.lowest_key for report in reports.values() if report.lowest_key is not None]
    enough = plan.settings.valid_fraction == 0 or any(r.valid.documents for r in reports.values())
    if enough or not keys:
        return {}
    return {n: min(keys) + 1 for n, report in reports.items() if report.lowest_key == min(keys)}


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
            f"nothing is left to train on: of all documents, {held_out} were held out "
            f"(--valid_fraction={plan.settings.valid_fraction}) and the others are empty; give more documents, or "
            "--valid_fraction=0 and another folder to validate with"
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
