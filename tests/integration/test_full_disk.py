"""The disk of the worker's own directory is full: it says where and what to do, nothing is lost,
and it goes on when there is room again. SQLite itself refuses the pages; the broker is real."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from integration.app_harness import Harness, app_running
from machine_world import Row, columns_of, in_canary
from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.stores.block_index import SqliteIndex
from seamline.connectors.world import World
from seamline.schemas.codec import encode_bars
from seamline.schemas.errors import TransportError
from seamline.schemas.topics import partition_of
from seamline.streams.apps.factory import make_factory
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.kernel.block_index import Entry

SYMBOL = "D0/USDT"
TOPIC = "seamline.p.storage"


def entries(count: int, start: int = 0) -> list[Entry]:
    return [Entry(SYMBOL, n, bytes(32), 1, n, n, n) for n in range(start, start + count)]


def fill(index: SqliteIndex) -> None:
    """No page more than there are."""
    pages = index._db.execute("PRAGMA page_count").fetchone()[0]
    index._db.execute(f"PRAGMA max_page_count={pages}")


def test_an_index_on_a_full_disk_says_where_and_keeps_what_it_has(tmp_path: Path) -> None:
    index = SqliteIndex(tmp_path / "0.sqlite", TOPIC)
    index.load(entries(3), 3)
    fill(index)
    with pytest.raises(TransportError, match="disk is full") as told:
        index.load(entries(5_000, 3), 5_003)
    assert told.value.value == str(tmp_path / "0.sqlite")
    assert "Free disk space" in str(told.value) and told.value.retriable
    assert (index.next_offset, len(index.of_symbol(SYMBOL))) == (3, 3)
    index.close()
    again = SqliteIndex(tmp_path / "0.sqlite", TOPIC)
    again.load(entries(5_000, 3), 5_003)
    assert (again.next_offset, len(again.of_symbol(SYMBOL))) == (5_003, 5_003)
    again.close()


@pytest.mark.parametrize("where", [0, 4096 * 3], ids=["header", "inside"])
def test_a_broken_index_is_made_anew(where: int, tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    index = SqliteIndex(path, TOPIC)
    index.load(entries(5_000), 5_000)
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    held = bytearray(path.read_bytes())
    held[where : where + 4096] = np.random.default_rng(1).bytes(4096)
    path.write_bytes(held)
    # Where it shows late, the owner takes again and finds a new one.
    for _ in range(2):
        try:
            broken = SqliteIndex(path, TOPIC)
            broken.of_symbol(SYMBOL)
            next_offset = broken.next_offset
            broken.close()
        except TransportError:
            continue
    assert next_offset == 0
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportError, match="block index cannot be used"):
        SqliteIndex(tmp_path / "file" / "0.sqlite", TOPIC)


def land(harness: Harness, fresh: FreshPreset, minutes: range) -> None:
    rows = [Row(SYMBOL, minute, 100.0) for minute in minutes]
    producer = IdempotentProducer(harness.world.cluster)
    for value in encode_bars([SYMBOL] * len(rows), columns_of(rows), fresh.ids["bar"]):
        producer.send(harness.topic("live"), SYMBOL.encode(), value)
    producer.close()


def test_an_owner_waits_for_room_and_loses_nothing(
    world: World,
    fresh_preset: MakePreset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fresh = fresh_preset(block_rows=10)
    partition = partition_of(SYMBOL, fresh.preset.partitions)
    factory = make_factory(fresh.preset, fresh.derived, world, tmp_path, in_canary)
    full = False
    opened = SqliteIndex._open

    def open_on_the_disk(self: SqliteIndex) -> None:
        opened(self)
        if full:
            fill(self)

    monkeypatch.setattr(SqliteIndex, "_open", open_on_the_disk)

    def rows(harness: Harness) -> int:
        return len(harness.out(partition))

    async def run() -> None:
        nonlocal full
        quick = OwnerSettings(wait_max_s=0.5)
        async with app_running(
            world, fresh.preset, tmp_path, factory=factory, owner=quick
        ) as harness:
            land(harness, fresh, range(30))
            await harness.until(lambda: rows(harness) == 30, "bars before", 60)
            full = True
            for owner in harness.app.owners.values():
                if owner._tenure is not None:
                    fill(owner._tenure._machine._parent.index)  # type: ignore[union-attr]
            land(harness, fresh, range(30, 1_030))
            failed = harness.metrics.troubles.labels(fresh.preset.id, "failed")
            await harness.until(lambda: failed._value.get() >= 3, "tries on the full disk", 60)
            full = False
            await harness.until(lambda: rows(harness) == 1_030, "every bar, once", 60)
            assert harness.metrics.quarantined.labels(fresh.preset.id, "poisoned")._value.get() == 0

    with caplog.at_level(logging.ERROR, "seamline"):
        asyncio.run(run())
    said = [r.getMessage() for r in caplog.records if "disk is full" in r.getMessage()]
    assert said and str(tmp_path) in said[0] and "Free disk space" in said[0]
