"""`seamline quarantine` on a real broker: what was refused is found, corrected and sent back, and
then the preset holds what it would hold if it had been right from the start."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.workers import WorkerProcess, await_that
from faults.comparison import Key, Values, compare, contents
from machine_world import MINUTE_NS, Row, columns_of
from mode_setting import set_mode
from preset_making import FreshPreset, make_presets
from quarantine_commands import run, top
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.governance.quarantine import Choice, Quarantine
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import read_one, read_range
from seamline.connectors.world import World
from seamline.schemas.audit import verify
from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.records import decode_record
from seamline.schemas.topics import (
    HEADER_PRODUCER,
    HEADER_REASON,
    HEADER_WATERMARK_NS,
    partition_of,
    subject_of,
)

pytestmark = pytest.mark.integration

PARTITIONS = 2
SYMBOLS = [
    next(s for s in (f"Q{i}/USDT" for i in range(99)) if partition_of(s, PARTITIONS) == p)
    for p in range(PARTITIONS)
]
BLOCK_ROWS = 60
MINUTES = 4 * BLOCK_ROWS
FEED = ((HEADER_PRODUCER, b"feed-7"),)
# Minutes of the first symbol that its producer got wrong, and how.
NOT_FINITE = range(20, 25)
NEWER = 22  # said once more since, with another price
NEGATIVE = range(30, 33)
MISKEYED = 40


def time_of(minute: int) -> int:
    return int(columns_of([Row("x", minute, 1.0)]).open_time_ns[0])


class Producer:
    """Lands the same series in two presets, one of them with faults."""

    def __init__(self, right: FreshPreset, mended: FreshPreset) -> None:
        self.right, self.mended = right, mended
        self._producer = IdempotentProducer(right.world.cluster)

    def land(self, row: Row, wrong: Row | None = None, key: bytes | None = None) -> None:
        for fresh, each in ((self.right, row), (self.mended, wrong or row)):
            (value,) = encode_bars([each.symbol], columns_of([each]), fresh.ids["bar"])
            named = key if key is not None and fresh is self.mended else row.symbol.encode()
            partition = partition_of(row.symbol, PARTITIONS)
            self._producer.send(
                fresh.topic("live"), named, value, headers=list(FEED), partition=partition
            )

    def block(self, symbol: str, first: int) -> None:
        """An older block of history; the digest of the faulty one is not that of its rows."""
        rows = [Row(symbol, first + n, 50.0 + n, source=0) for n in range(BLOCK_ROWS)]
        columns = ConformedColumns.of_landing(columns_of(rows))
        start_ns = int(columns.open_time_ns[0])
        for fresh in (self.right, self.mended):
            block = Block(
                symbol=symbol,
                block_start_ns=start_ns,
                block_end_ns=start_ns + BLOCK_ROWS * MINUTE_NS,
                interval_ns=MINUTE_NS,
                range_start_ns=start_ns,
                complete_through_ns=start_ns + BLOCK_ROWS * MINUTE_NS,
                columns=columns,
                digest=block_digest(symbol, columns) if fresh is self.right else b"\0" * 32,
                landing=True,
            )
            value = encode_block(block, fresh.ids["bar_block"])
            partition = partition_of(symbol, PARTITIONS)
            topic = fresh.topic("backfill")
            self._producer.send(topic, symbol.encode(), value, partition=partition)

    def heartbeat(self, through_ns: int) -> None:
        headers = [("seamline-venue", b"test"), (HEADER_WATERMARK_NS, str(through_ns).encode())]
        for fresh in (self.right, self.mended):
            for partition in range(PARTITIONS):
                self._producer.send(
                    fresh.topic("live"), None, None, headers=headers, partition=partition
                )

    def settle(self) -> None:
        self._producer.flush()


@pytest.fixture
def pair(world: World, tmp_path: Path) -> Iterator[tuple[FreshPreset, FreshPreset]]:
    """Two presets of one worker."""
    settings = {"partitions": PARTITIONS, "block_rows": BLOCK_ROWS}
    right, mended = make_presets(world, tmp_path, [settings, settings])
    command = [sys.executable, "-m", "seamline.sdk.cli", "worker"]
    command += [right.preset.id, mended.preset.id, "--dir", str(tmp_path / "worker")]
    worker = WorkerProcess("worker", tmp_path / "w", world, command, right.environment())
    worker.start()
    try:
        await_that(lambda: worker.said("owns partitions") >= 2, 300, "a worker", {"w": worker.log})
        yield right, mended
    finally:
        worker.end()


def open_ones(fresh: FreshPreset) -> int:
    quarantine = Quarantine(fresh.world.cluster, fresh.preset)
    return sum(1 for _ in quarantine.open(Choice()))


def land_all(producer: Producer) -> None:
    first, second = SYMBOLS
    for minute in range(MINUTES // 2):
        row = Row(first, minute, 100.0 + minute % 7)
        wrong = replace(row, price=math.nan) if minute in NOT_FINITE else None
        if minute in NEGATIVE:
            row = wrong = replace(row, volume=-1.0)
        producer.land(row, wrong, b"wrong" if minute == MISKEYED else None)
        producer.land(Row(second, minute, 200.0 + minute % 5))
    producer.settle()


def land_rest(producer: Producer) -> None:
    """What comes since: a newer value of one of the faulty minutes, and all else, to be sealed."""
    first, second = SYMBOLS
    producer.land(Row(first, NEWER, 777.0))
    producer.block(second, -2 * BLOCK_ROWS)
    for minute in range(MINUTES // 2, MINUTES):
        producer.land(Row(first, minute, 100.0 + minute % 7))
        producer.land(Row(second, minute, 200.0 + minute % 5))
    producer.heartbeat(time_of(MINUTES))
    producer.settle()


def edited(path: Path, target: Path) -> None:
    """What a person does to an export: the prices that were no numbers are put right."""
    lines = []
    for text in path.read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        fields = line["decoded"]
        if line["rule"] == "non_finite":
            minute = (fields["open_time_ns"] - time_of(0)) // MINUTE_NS
            price = 100.0 + minute % 7
            fields |= {"open": price, "high": price + 1, "low": price - 0.5, "close": price + 0.25}
        lines.append(json.dumps(line))
    target.write_text("\n".join(lines) + "\n")


def await_conformed(fresh: FreshPreset, bars: int) -> None:
    await_that(lambda: len(contents(fresh).bars) == bars, 120, f"{bars} bars")


def reported(fresh: FreshPreset) -> Counter[tuple[str, str, int, str]]:
    """(rule, producer, schema id, symbol) -> records, over every report that was written."""
    tps = [(fresh.topic("reports"), number) for number in range(PARTITIONS)]
    admin = Admin(fresh.world.cluster)
    found: Counter[tuple[str, str, int, str]] = Counter()
    for batch in read_range(fresh.world.cluster, admin.begin_offsets(tps), admin.end_offsets(tps)):
        for record in batch:
            for entry in decode_record("report", record.value or b"")["failures"]:
                who = (entry["rule"], entry["producer"], entry["schema_id"], entry["symbol"])
                found[who] += entry["count"]
    return found


def assert_reported(fresh: FreshPreset) -> None:
    """Reports name who broke what; what has a key that no bar has is in one of another symbol."""
    told, bar = reported(fresh), fresh.ids["bar"]
    assert told["non_finite", "feed-7", bar, SYMBOLS[0]] == len(NOT_FINITE)
    assert told["key_mismatch", "feed-7", bar, "wrong"] == 1
    assert told["invalid_block", "unknown", fresh.ids["bar_block"], SYMBOLS[1]] == 1


def actions(world: World) -> Sequence[str]:
    return [entry.action for entry in GovernanceLog(world.cluster).read().entries]


def test_repaired_records_leave_what_a_run_without_faults_leaves(
    pair: tuple[FreshPreset, FreshPreset], world: World, tmp_path: Path
) -> None:
    right, mended = pair
    producer = Producer(right, mended)
    subject = subject_of(mended.topic("live"))
    set_mode(world, subject, STRICT)
    land_all(producer)
    # The mode of a running worker follows within 2 s; what landed before it did is in canary.
    await_that(lambda: open_ones(mended) > len(NOT_FINITE), 120, "quarantine")
    land_rest(producer)
    await_conformed(right, 2 * MINUTES + BLOCK_ROWS)
    await_that(lambda: "invalid_block" in top(mended), 60, "the block in quarantine")
    refused = top(mended)
    assert refused["non_finite"] == len(NOT_FINITE)
    assert refused["key_mismatch"] == refused["invalid_block"] == 1
    in_strict = refused.get("negative_volume", 0)
    assert top(mended, "--producer", "feed-7") == {
        k: v for k, v in refused.items() if k != "invalid_block"
    }

    # In strict the same rules refuse it again; in canary it goes back as it is.
    assert '"refused": ' in run(
        mended, "redrive", mended.preset.id, "--rule", "non_finite", "-o", "json", status=1
    )
    assert top(mended) == refused
    set_mode(world, subject, CANARY)
    if in_strict:
        again = ("redrive", mended.preset.id, "--rule", "negative_volume", "--actor", "ann")
        planned = run(mended, *again, "--dry-run", "-o", "json")
        assert len(json.loads(planned)) == in_strict
        assert top(mended) == refused
        done = json.loads(run(mended, *again, "-o", "json"))
        assert (done["redriven"], done["refused"], len(done["entries"])) == (in_strict, 0, 1)
        # Once more: nothing is open, nothing is written.
        assert json.loads(run(mended, *again, "-o", "json"))["entries"] == []

    # A person corrects an export; another record by its field; the originals stay.
    export = tmp_path / "export.jsonl"
    arguments = ("--rule", "non_finite", "--rule", "invalid_block")
    run(mended, "export", mended.preset.id, "--to", str(export), *arguments)
    corrections = tmp_path / "edited.jsonl"
    edited(export, corrections)
    done = json.loads(
        run(mended, "fix", mended.preset.id, "--from", str(corrections), "-o", "json")
    )
    assert (done["action"], done["redriven"]) == ("fix", len(NOT_FINITE) + 1)
    choose = ("--symbol", "wrong", "--set", f"symbol={SYMBOLS[0]}")
    done = json.loads(run(mended, "fix", mended.preset.id, *choose, "-o", "json"))
    assert (done["redriven"], done["refused"]) == (1, 0)
    assert top(mended) == {}
    first = json.loads(export.read_text().splitlines()[0])
    message = read_one(
        world.cluster, mended.topic("quarantine"), first["partition"], first["offset"]
    )
    assert dict(message.headers)[HEADER_REASON].decode() == first["rule"]
    place = f"{first['partition']}:{first['offset']}"
    shown = json.loads(run(mended, "show", mended.preset.id, "--offset", place, "-o", "json"))
    assert shown["state"] == "settled" and shown["producer"] in ("feed-7", "unknown")
    await_conformed(mended, 2 * MINUTES + BLOCK_ROWS)
    await_that(
        lambda: not compare(contents(right), contents(mended)).sentences(), 60, "equal contents"
    )
    difference = compare(contents(right), contents(mended))
    assert difference.sentences() == () and difference.bars == 2 * MINUTES + BLOCK_ROWS
    assert_reported(mended)
    repaired_while_open(producer, right, mended, tmp_path)
    chain = GovernanceLog(world.cluster).chain()
    assert verify(chain.values, chain.head).ok
    assert actions(world).count("fix") >= 2


def repaired_while_open(
    producer: Producer, right: FreshPreset, mended: FreshPreset, directory: Path
) -> None:
    """A bar that comes back before its block is sealed is in the conformed log as well, once and
    with the revision it would have had; then it is sealed with the others, revisions too."""
    symbol, minutes = SYMBOLS[0], range(MINUTES, MINUTES + BLOCK_ROWS // 2)
    wrong = minutes[5:9]
    for minute in minutes:
        row = Row(symbol, minute, 100.0 + minute % 7)
        producer.land(row, replace(row, price=math.nan) if minute in wrong else None)
    producer.settle()

    def logged(fresh: FreshPreset) -> dict[Key, list[tuple[Values, str, int]]]:
        """Without flags: what comes later was never the newest bar."""
        return {
            bar: [(row.values, row.source, row.revision) for row in rows]
            for bar, rows in contents(fresh).revisions().items()
            if bar >= (symbol, time_of(minutes[0])) and bar[0] == symbol
        }

    await_that(lambda: len(logged(right)) == len(minutes), 60, "bars of an open block")
    await_that(lambda: top(mended) == {"non_finite": len(wrong)}, 60, "quarantine")
    await_that(lambda: len(logged(mended)) == len(minutes) - len(wrong), 60, "the others")
    export, corrections = directory / "open.jsonl", directory / "open-edited.jsonl"
    run(mended, "export", mended.preset.id, "--to", str(export))
    edited(export, corrections)
    done = json.loads(
        run(mended, "fix", mended.preset.id, "--from", str(corrections), "-o", "json")
    )
    assert (done["redriven"], done["refused"]) == (len(wrong), 0)
    await_that(lambda: len(logged(mended)) == len(minutes), 60, "what came back")
    assert logged(mended) == logged(right)
    for fresh in (right, mended):
        assert contents(fresh).frontier(symbol) <= time_of(minutes[0])
    producer.heartbeat(time_of(MINUTES + 2 * BLOCK_ROWS))
    producer.settle()

    def sealed() -> bool:
        found = contents(right), contents(mended)
        past = all(each.frontier(symbol) > time_of(minutes[-1]) for each in found)
        return past and not compare(*found).sentences()

    await_that(sealed, 60, "equal contents when all is sealed")
    # One bar had a newer value when it came back: there is no older one for it to be a revision of.
    before, after = contents(right).stored, contents(mended).stored
    newer = (SYMBOLS[0], time_of(NEWER))
    assert {bar for bar in before if before[bar].revision != after[bar].revision} == {newer}
    assert (before[newer].revision, after[newer].revision) == (1, 0)
