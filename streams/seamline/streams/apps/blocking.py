"""One thread for the blocking calls of one task.

Decides: how a result comes back to the event loop. Invariants: calls of one thread never overlap; a
call that is stuck in a client may outlive its task by its own time limit, but keeps neither the
loop nor the process from ending (the thread is a daemon, unlike those of an executor). Must not
know: what is called.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class BlockingThread:
    """Calls run in it in the order in which they were asked for."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except BaseException as raised:
                error = raised
            # The loop may be gone when the process is ending: nobody waits for the result then.
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(settle, result, error)
                except RuntimeError:
                    return

        self._calls.put(work)
        return future

    def finish(self) -> None:
        """End the thread after what was asked of it so far. Does not wait."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
