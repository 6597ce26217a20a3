"""Units of a preparation on several processes, which stop together and end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from experiments.prepare.held_out import Rule
from experiments.prepare.plan import Plan
from experiments.prepare.shard_maker import UnitReport, make_unit
from titans_jax.data.tokenizers import Tokenizer, load_tokenizer


class Maker:
    """Makes units of a plan, in this process or in several others."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        tokenizer: Tokenizer,
        tokenizer_spec: str,
        workers: int,
    ):
        """Takes what is the same for all units.

        Args:
          plan: the plan.
          folder: the output folder.
          tokenizer: the plan's.
          tokenizer_spec: for `load_tokenizer` in other processes.
          workers: processes; 1 is this one.
        """
        self._plan, self._folder, self._workers = plan, folder, workers
        self._tokenizer, self._spec = tokenizer, tokenizer_spec

    def __call__(
        self, units: Mapping[int, Rule], progress: Callable[[int], object]
    ) -> dict[int, UnitReport]:
        """Makes units, each by its rule.

        Args:
          units: numbers and rules.
          progress: see `make_unit`; several processes are heard of twice a second.

        Raises:
          ValueError, OSError: see `make_unit`; all processes stop at the first.
          RuntimeError: a process died.
        """
        workers = min(self._workers, len(units))
        if workers <= 1:
            return {
                n: make_unit(self._plan, n, self._tokenizer, self._folder, units[n], progress)
                for n in sorted(units)
            }
        # Forked from a process that has only imported this module: neither threads nor devices of this one come along.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
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
