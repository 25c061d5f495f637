"""What a rehearsal costs: flat bars of a retained topic, read and judged by one process.

`python -m bench.rehearsal [--rows N]` with `tests` on the path and a world in the environment (or
the embedded stack running). Prints one JSON object: records per second of the whole run and
microseconds of this process's CPU for each record, the client's own threads included, beside a read
of the same topic that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from landing_mix import FAULTS, land, register_stranger
from preset_making import make_preset
from seamline.connectors.cycle_search import cycles_searched_seldom
from seamline.connectors.governance import rehearsing
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.world import World
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.topics import subject_of
from seamline.streams.kernel.intake import NAMES
from third_party import ThirdParty

HOUR_NS = 3_600_000_000_000


def measured(rows: int, work: Callable[[], Any]) -> dict[str, Any]:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "records": rows,
        "took_s": round(took, 2),
        "records_per_s": round(rows / took),
        "cpu_us_per_record": round(cpu * 1e6 / rows, 2),
        "records_per_core_s": round(rows / cpu),
    }


def run(world: World, rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        fresh = make_preset(world, Path(directory))
    topic = fresh.topic("live")
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    with ThirdParty(world, fresh.preset, retype={"volume": "string"}) as third:
        land(
            world,
            fresh.preset,
            fresh.ids,
            unknown_id=register_stranger(client, subject_of(topic)),
            drifted=third,
            records=rows,
            now_ns=time.time_ns(),
            faults=FAULTS,
        )
    tps = [(topic, number) for number in range(fresh.preset.partitions)]
    fences = Admin(world.cluster).end_offsets(tps)
    now_ns = time.time_ns()
    plan = rehearsing.Plan(
        subject=subject_of(topic),
        preset=fresh.preset,
        since="2h",
        since_ns=now_ns - 2 * HOUR_NS,
        now_ns=now_ns,
        bundle_sha256=BUNDLE_SHA256,
    )
    resolve = Meanings(client, NAMES)
    try:
        rehearsing.rehearse(world.cluster, plan, resolve)  # compiles
        ours = measured(rows, lambda: rehearsing.rehearse(world.cluster, plan, resolve))
    finally:
        client.close()
    with cycles_searched_seldom():  # as a rehearsal reads
        bare = measured(
            rows, lambda: sum(map(len, read_range(world.cluster, dict.fromkeys(tps, 0), fences)))
        )
    return {"rehearsal": ours, "bare_read": bare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    options = parser.parse_args()
    answer = run(World.resolve(os.environ), options.rows)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
