"""One process at a time: a file lock that ends with its process.

Decides: how long to wait for another process, and how that is told. Invariants: the lock is the
kernel's (`flock`), so a killed holder leaves nothing to clean up; a child started while it is held
does not inherit it. Must not know: what is done under the lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seamline.schemas.errors import TransportError

POLL_S = 0.1


@contextmanager
def held(path: Path, timeout_s: float, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`; `waiting` is called once if another process has it.

    Raises TransportError when it is not free within `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, path, timeout_s, waiting)
        yield
    finally:
        os.close(descriptor)


def _take(
    descriptor: int, path: Path, timeout_s: float, waiting: Callable[[], None] | None
) -> None:
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"another seamline process is still at work here after {timeout_s:g} s",
                    parameter="lock",
                    value=str(path),
                    fix="Wait for it to finish, or end it, and try again",
                ) from None
        if not told and waiting is not None:
            waiting()
        told = True
        time.sleep(POLL_S)
