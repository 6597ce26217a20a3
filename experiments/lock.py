"""The lock of a folder: who works in it works alone, on this machine and on others that share the folder.

    with lock(folder, f"--workdir={folder}"):
        ...

The file "lock" names its holder (host, process, start) and a beat, which a thread writes anew every `BEAT` seconds. On
this machine the kernel's lock on the file decides (`flock`); it goes with the holder, however that ends, so that a
killed one is no hindrance. Where the kernel knows nothing of the holder, because it runs on another machine, its beat
decides: one that changes is alive; one that has not changed for `STALE` seconds is dead, and its lock is taken over. A
holder that was only held up sees another's name in the file and ends its process.

A folder at a URL such as gs://BUCKET/RUN has no kernel's lock and no way to create a file only once: there the beat
decides alone. Of two that start in the same moments the one whose name stays in the file for `SETTLE` seconds has it.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

NAME = "lock"
#: Seconds between two beats; until a beat that does not change is a dead holder's; for a name at a URL to stay.
BEAT, STALE, SETTLE = 10.0, 60.0, 3.0
#: Exit code of a process that has lost its lock: it may be started again.
LOST = 75
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(ValueError):
    """Another process works in the folder."""


@contextlib.contextmanager
def lock(folder: epath.PathLike, what: str) -> Iterator[None]:
    """Works in a folder alone for as long as the context lasts.

    Args:
      folder: exists; of this machine, shared, or at a URL.
      what: the folder as the user gave it, for the message.

    Raises:
      LockedError: another process works there; the message says which, as far as it is known.
      OSError: the file cannot be written.
    """
    path = epath.Path(folder) / NAME
    at_url = "://" in str(path)
    with contextlib.nullcontext(False) if at_url else _kernels_lock(Path(path), what) as alone_here:
        known = _read(path)
        # With the kernel's lock, a name of this machine is that of a process that is gone.
        if known and not (alone_here and _holder(known).get("host") == socket.gethostname()):
            _wait_until_dead(path, known, what)
        token = secrets.token_hex(8)
        mine = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "start": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "token": token,
        }

        def write(beat: int) -> None:
            _write(path, json.dumps({**mine, "beat": beat}) + "\n", in_place=not at_url)

        write(0)
        if not alone_here:
            time.sleep(SETTLE)
            if _holder(_read(path)).get("token") != token:
                raise _refusal(what, _read(path))
        with _beating(path, token, write):
            yield


@contextlib.contextmanager
def _kernels_lock(path: Path, what: str) -> Iterator[bool]:
    """Whether the kernel keeps locks there; if it does, this process has the one on the file."""
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _refusal(what, _read(path)) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                yield False
                return
            # Its last holder may have removed the file between the two calls: then it is no longer the folder's.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield True
                return


def _wait_until_dead(path: epath.Path, known: str, what: str) -> None:
    print(
        f"{what}: locked by {_name(known)}; taken over in {STALE:.0f} seconds if it is dead",
        file=sys.stderr,
        flush=True,
    )
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(min(BEAT / 4, STALE / 4))
        now = _read(path)
        if not now:
            return
        if now != known:
            raise _refusal(what, now)


@contextlib.contextmanager
def _beating(path: epath.Path, token: str, write: Callable[[int], None]) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        number = 0
        while not done.wait(BEAT):
            number += 1
            # Storage that is full or away for a while is the run's own trouble; it raises whatever it does.
            with contextlib.suppress(Exception):
                seen = _read(path)
                if seen and _holder(seen).get("token") != token:
                    print(
                        f"error: {path} is now {_name(seen)}'s, for which this process was dead; it ends",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(LOST)
                write(number)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(Exception):
            if _holder(_read(path)).get("token") == token:
                path.unlink()


def _read(path: epath.PathLike) -> str:
    """What the file holds, as it is: a new open sees on a shared file system what others have closed."""
    try:
        return epath.Path(path).read_bytes().decode(errors="replace").strip("\0 \n")
    except FileNotFoundError:
        return ""


def _write(path: epath.Path, content: str, in_place: bool) -> None:
    if not in_place:
        path.write_text(content, encoding="utf-8")
        return
    with Path(path).open("r+", encoding="utf-8") as file:  # the kernel's lock is on this very file
        file.write(content)
        file.truncate()


def _holder(content: str) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _name(content: str) -> str:
    holder = _holder(content)
    if not holder:
        return "a process that did not leave its name"
    return f"process {holder.get('process')} on {holder.get('host')} (since {holder.get('start')})"


def _refusal(what: str, content: str) -> LockedError:
    return LockedError(f"{what}: {_name(content)} is at work there; wait for it, or stop it")
