"""The peer of the worker's benchmark: the same job on stock faust-streaming, as one would write it.

`python stock_job.py BOOTSTRAP GROUP SOURCE TARGET PARTITIONS DATADIR BAR_ID CONFORMED_ID`

Each landed bar is decoded, checked, compared with the bar of the same identity, and sent on as a
conformed bar. No exactly-once, no blocks, no seals: less than the worker does.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import faust

from seamline.schemas.records import decode_record, encode_record

MINUTE_NS = 60_000_000_000
BARS_KEPT = 500_000


def broken(bar: dict[str, Any]) -> bool:
    prices = [bar[name] for name in ("open", "high", "low", "close")]
    return (
        not all(map(math.isfinite, (*prices, bar["volume"])))
        or bar["high"] < max(prices)
        or bar["low"] > min(prices)
        or bar["volume"] < 0
        or bar["open_time_ns"] % MINUTE_NS != 0
    )


def main(
    bootstrap: str,
    group: str,
    source: str,
    target: str,
    partitions: str,
    data: str,
    bar_id: str,
    conformed_id: str,
) -> None:
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=Path(data),
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
    )
    landed = app.topic(source, value_serializer="raw", key_serializer="raw")
    conformed = app.topic(
        target, value_serializer="raw", key_serializer="raw", partitions=int(partitions)
    )
    seen: dict[tuple[str, int], tuple[float, ...]] = {}

    @app.agent(landed)
    async def conform(stream: Any) -> None:
        async for event in stream.events():
            bar = decode_record("bar", event.value)
            identity = bar["symbol"], bar["open_time_ns"]
            content = tuple(bar[n] for n in ("open", "high", "low", "close", "volume"))
            if broken(bar) or seen.get(identity) == content:
                continue
            if len(seen) < BARS_KEPT:
                seen[identity] = content
            del bar["closed"], bar["interval_ms"]
            now_ns = time.time_ns() // 1_000 * 1_000
            out = {**bar, "revision": 0, "flags": 0, "known_time_ns": now_ns, "origin": "live"}
            value = encode_record("conformed_bar", out, int(conformed_id))
            await conformed.send(key=event.key, value=value)

    faust.Worker(app, loglevel="CRITICAL").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
