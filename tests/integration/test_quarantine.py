"""`seamline quarantine` on a real broker: what was refused is found, corrected and sent back, once,
with its mark and an entry of the audit."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from machine_world import MINUTE_NS, Row, columns_of
from preset_making import FreshPreset, make_presets
from quarantine_commands import run, top
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder, encode_bars
from seamline.schemas.topics import (
    HEADER_PRODUCER,
    HEADER_REDRIVEN,
    partition_of,
    subject_of,
)
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.quarantined import Quarantined

pytestmark = pytest.mark.integration

PARTITIONS = 2
SYMBOLS = [
    next(s for s in (f"Q{i}/USDT" for i in range(99)) if partition_of(s, PARTITIONS) == p)
    for p in range(PARTITIONS)
]
FEED = ((HEADER_PRODUCER, b"feed-7"),)


def set_aside(fresh: FreshPreset, rows: Sequence[tuple[Row, str]]) -> None:
    """What a worker writes of records that it refuses, without a worker."""
    producer = IdempotentProducer(fresh.world.cluster)
    values = encode_bars([r.symbol for r, _ in rows], columns_of([r for r, _ in rows]), 1)
    for at, ((row, reason), value) in enumerate(zip(rows, values, strict=True)):
        framed = value[:1] + fresh.ids["bar"].to_bytes(4, "big") + value[5:]
        partition = partition_of(row.symbol, PARTITIONS)
        record = MemoryRecord(
            fresh.topic("live"), partition, at, 5, row.symbol.encode(), framed, FEED
        )
        producer.send(
            fresh.topic("quarantine"),
            record.key,
            record.value,
            headers=list(Quarantined(record, reason, "for a test").headers(7_000)),
            partition=partition,
        )
    producer.close(60)


def test_each_record_goes_back_once_with_its_mark_and_an_entry(
    world: World, tmp_path: Path
) -> None:
    (fresh,) = make_presets(world, tmp_path, [{"partitions": PARTITIONS}])
    first, second = SYMBOLS
    rows = [(Row(first, minute, 100.0), "unknown_schema") for minute in (5, 3, 5)]
    rows += [(Row(second, 1, math.nan), "non_finite"), (Row(second, 2, 7.0), "unknown_schema")]
    set_aside(fresh, rows)
    name = fresh.preset.id
    assert top(fresh) == {"unknown_schema": 4, "non_finite": 1}
    planned = json.loads(run(fresh, "redrive", name, "--dry-run", "-o", "json", status=1))
    assert [row["does"].partition(" ")[0] for row in planned] == [
        *("lands", "lands", "lands"),
        *("is", "stays"),
    ]
    assert top(fresh) == {"unknown_schema": 4, "non_finite": 1}
    answer = json.loads(run(fresh, "redrive", name, "--actor", "ann", "-o", "json", status=1))
    assert (answer["redriven"], answer["superseded"], answer["refused"]) == (3, 1, 1)
    assert top(fresh) == {"non_finite": 1}
    again = json.loads(run(fresh, "redrive", name, "-o", "json", status=1))
    assert (again["redriven"], again["entries"]) == (0, [])
    (line,) = run(fresh, "export", name).splitlines()
    assert base64.b64decode(json.loads(line)["key_base64"]) == second.encode()
    price = ("--set", "open=1", "--set", "high=2", "--set", "low=1", "--set", "close=2")
    fixed = json.loads(run(fresh, "fix", name, "--symbol", second, *price, "-o", "json"))
    assert fixed["redriven"] == 1
    assert top(fresh) == {}

    tps = [(fresh.topic("live"), number) for number in range(PARTITIONS)]
    admin = Admin(world.cluster)
    batches = read_range(world.cluster, admin.begin_offsets(tps), admin.end_offsets(tps))
    landed = [record for batch in batches for record in batch]
    bars = BarDecoder().decode([record.value or b"" for record in landed])
    minutes = bars.columns.open_time_ns - columns_of([Row(first, 0, 1.0)]).open_time_ns[0]
    by_partition = [
        [m // MINUTE_NS for m, r in zip(minutes.tolist(), landed, strict=True) if r.partition == p]
        for p in range(PARTITIONS)
    ]
    assert by_partition == [[3, 5], [2, 1]]
    for record in landed:
        headers = dict(record.headers)
        assert headers[HEADER_PRODUCER] == b"feed-7"
        assert headers[HEADER_REDRIVEN].startswith(fresh.topic("live").encode() + b"/")
    mine = [
        entry
        for entry in GovernanceLog(world.cluster).read().entries
        if entry.subject == subject_of(fresh.topic("live"))
    ]
    assert [(e.action, e.evidence["records"]) for e in mine] == [("redrive", 3), ("fix", 1)]
    assert mine[0].actor == "ann"


def test_a_wrong_input_is_told_and_changes_nothing(world: World, tmp_path: Path) -> None:
    (fresh,) = make_presets(world, tmp_path, [{"partitions": PARTITIONS}])
    name = fresh.preset.id
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"format": 1, "preset": "other", "partition": 0, "offset": 1}\n')
    for arguments, status in (
        (("show", name, "--offset", "1"), 2),
        (("show", name, "--offset", "7:1"), 1),
        (("fix", name), 2),
        (("fix", name, "--set", "close=1"), 2),
        (("fix", name, "--set", "close", "--symbol", "x"), 2),
        (("fix", name, "--from", str(tmp_path / "absent")), 2),
        (("fix", name, "--from", str(nothing)), 2),
        (("redrive", name, "--since", "yesterday"), 2),
        (("redrive", "nobody"), 2),
        (("top", name), 0),
        (("redrive", name), 0),
    ):
        run(fresh, *arguments, status=status)
    assert run(fresh, "export", name) == ""
