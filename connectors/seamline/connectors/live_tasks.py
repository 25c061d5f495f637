"""Tasks that live and end together.

Decides: how some coroutines run side by side. Invariants: the first fault ends all of them and is
what is raised; none is left running. Must not know: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def until_stopped(
    work: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event | None = None
) -> None:
    """Run all until `stop` is set or one of them ends or raises; none is left running."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    stopped = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, stopped, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
