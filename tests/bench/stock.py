"""The peer of the lane's benchmark: stock faust-streaming doing the same copy, at its defaults.

`python stock.py BOOTSTRAP GROUP SOURCE TARGET PARTITIONS DATADIR`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import faust


def main(bootstrap: str, group: str, source: str, target: str, partitions: str, data: str) -> None:
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
    copied = app.topic(
        target, value_serializer="raw", key_serializer="raw", partitions=int(partitions)
    )

    @app.agent(landed)
    async def copy(stream: Any) -> None:
        async for event in stream.events():
            await copied.send(key=event.key, value=event.value)

    faust.Worker(app, loglevel="CRITICAL").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
