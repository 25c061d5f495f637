"""`make bench`: every benchmark with its peers; prints JSON as it goes.

First the kernel, which needs no broker, then rehearsal, worker and lane on one embedded broker.

The figures of docs/benchmarks.md come from here. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamline.connectors import jit_cache

jit_cache.use()  # before anything imports numba

from bench import coverage, fingerprint, lane, rehearsal, temporal, worker  # noqa: E402
from seamline.connectors.embedded import stack  # noqa: E402
from seamline.connectors.world import World  # noqa: E402

KERNEL: dict[str, Callable[[], dict[str, Any]]] = {
    "coverage": coverage.run,
    "temporal": temporal.run,
    "fingerprint": fingerprint.run,
}
PLANE = ("rehearsal", "worker", "lane")


def say(name: str, found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({name: found}, indent=1) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--only", choices=[*KERNEL, *PLANE], default=None)
    options = parser.parse_args()
    for name, run in KERNEL.items():
        if options.only in (None, name):
            say(name, run())
    if options.only is None or options.only in PLANE:
        run_plane(options.only, options.rows)


def run_plane(only: str | None, rows: int) -> None:
    with tempfile.TemporaryDirectory() as directory, stack.running() as found:
        world = World.resolve(
            {
                **os.environ,
                "SEAMLINE_BOOTSTRAP_SERVERS": found.bootstrap,
                "SEAMLINE_SCHEMA_REGISTRY_URL": found.registry_url,
            }
        )
        if only in (None, "rehearsal"):
            say("rehearsal", rehearsal.run(world, rows // 3))
            say("rehearsal of trades", rehearsal.run_trades(world, rows // 3))
        if only in (None, "worker"):
            say("worker", worker.run(world, Path(directory), rows))
        if only in (None, "lane"):
            say("lane", lane.run(world, rows, 40_000, 4))


if __name__ == "__main__":
    main()
