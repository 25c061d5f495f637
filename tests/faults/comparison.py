"""What a preset holds, as any reader would find it, and what differs between two of them.

Decides: what stands for a bar: its newest row in storage before the frontier of its symbol, in the
log from there on. Invariants: only committed records count; a row of the log is there twice when
identity, revision, content and authority are; a block whose bytes do not give its digest, or a
sealed bar of the log that storage lacks, is an error of the content itself and stands in `broken`.
Must not know: what ran.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from preset_making import FreshPreset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import CONFIRMED, CONTENT_FIELDS, SOURCES, ConformedColumns
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.records import decode_record
from seamline.schemas.times import format_time

Key = tuple[str, int]  # symbol, open time (ns)
Values = tuple[float | int | None, ...]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a bar: its content (as CONTENT_FIELDS, None for null), authority, revision."""

    values: Values
    source: str
    revision: int
    flags: int = 0


@dataclass(slots=True)
class Contents:
    """`log`: the rows of each bar of the conformed topic in order; `digests` by (symbol, block
    start); `seals`: frontier and Merkle root; `gaps`: (symbol, start) to (end, cause)."""

    log: dict[Key, list[Row]] = field(default_factory=dict)
    stored: dict[Key, Row] = field(default_factory=dict)
    digests: dict[Key, bytes] = field(default_factory=dict)
    seals: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    gaps: dict[Key, tuple[int, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def bars(self) -> dict[Key, Row]:
        """What stands for each bar."""
        found = dict(self.stored)
        for key, rows in self.log.items():
            if key[1] >= self.frontier(key[0]):
                found[key] = rows[-1]
        return found

    def frontier(self, symbol: str) -> int:
        return self.seals[symbol][0] if symbol in self.seals else 0

    @property
    def twice(self) -> list[Key]:
        """Bars with a row that the log holds more than once; a confirmation is no such row."""
        found = []
        for key, rows in self.log.items():
            counts = Counter(row for row in rows if not row.flags & CONFIRMED)
            if any(count > 1 for count in counts.values()):
                found.append(key)
        return found

    def revisions(self) -> dict[Key, list[Row]]:
        """The log without confirmations, which readers ignore."""
        return {
            key: [row for row in rows if not row.flags & CONFIRMED]
            for key, rows in self.log.items()
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """Of what was expected and what was found. `wrong`: other differences, a sentence each."""

    bars: int
    lost: tuple[Key, ...]
    duplicated: tuple[Key, ...]
    changed: tuple[Key, ...]
    invented: tuple[Key, ...]
    wrong: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        return {
            "bars": self.bars,
            **{
                name: len(getattr(self, name))
                for name in ("lost", "duplicated", "changed", "invented")
            },
        }

    def sentences(self) -> tuple[str, ...]:
        """What is wrong, with some bars of each kind by name."""
        named = [
            f"{name}: {shown(getattr(self, name))}"
            for name in ("lost", "duplicated", "changed", "invented")
            if getattr(self, name)
        ]
        return (*named, *self.wrong)


def contents(fresh: FreshPreset) -> Contents:
    """Everything committed so far. Raises TransportError when the broker does not answer."""
    found = Contents()
    admin = Admin(fresh.world.cluster)
    for partition in range(fresh.preset.partitions):
        with closing(LogReader(fresh.world.cluster, partition, admin)) as reader:
            _read_log(fresh, reader, found)
            _read_storage(fresh, reader, found)
            for _, value, _ in reader.latest(fresh.topic("seals")):
                seal = decode_record("seal", value)
                found.seals[seal["symbol"]] = seal["frontier_ns"], bytes(seal["merkle_root"])
            for _, value, _ in reader.latest(fresh.topic("gaps")):
                gap = decode_record("gap", value)
                found.gaps[gap["symbol"], gap["start_ns"]] = gap["end_ns"], gap["cause"]
    for key in found.log:
        if key[1] < found.frontier(key[0]) and key not in found.stored:
            found.broken.append(f"sealed and not in storage: {shown([key])}")
    return found


def compare(expected: Contents, found: Contents, *, revisions: bool = False) -> Difference:
    """Bars, authority, digests, seals and gaps of two contents; with `revisions` the rows of the
    log too, in their order."""
    difference = compare_bars(
        {key: row.values for key, row in expected.bars.items()},
        {key: row.values for key, row in found.bars.items()},
    )
    before, after = expected.bars, found.bars
    authority = [k for k in before.keys() & after.keys() if before[k].source != after[k].source]
    wrong = [f"{len(authority)} of another authority: {shown(authority)}"] if authority else []
    for name in ("digests", "seals", "gaps"):
        wrong += _unlike(name, getattr(expected, name), getattr(found, name))
    if revisions:
        wrong += _unlike("revisions", expected.revisions(), found.revisions())
    return Difference(
        bars=difference.bars,
        lost=difference.lost,
        duplicated=tuple(sorted(set(found.twice) - set(expected.twice))),
        changed=difference.changed,
        invented=difference.invented,
        wrong=(*wrong, *found.broken),
    )


def compare_bars(expected: Mapping[Key, Any], found: Mapping[Key, Any]) -> Difference:
    """By identity and value alone."""
    return Difference(
        bars=len(expected),
        lost=tuple(sorted(expected.keys() - found.keys())),
        duplicated=(),
        changed=tuple(sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])),
        invented=tuple(sorted(found.keys() - expected.keys())),
        wrong=(),
    )


def shown(keys: Iterable[Key]) -> str:
    """Some of the keys, for people."""
    listed = sorted(keys)
    first = ", ".join(f"{symbol} {format_time(time_ns)}" for symbol, time_ns in listed[:SHOWN])
    return first + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def _unlike(name: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    keys = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    first = [f"{key}: {expected.get(key)} and {found.get(key)}" for key in sorted(keys)[:SHOWN]]
    return [f"{len(keys)} {name} differ: {'; '.join(first)}"] if keys else []


def _read_log(fresh: FreshPreset, reader: LogReader, found: Contents) -> None:
    decoder = ConformedDecoder()
    for messages in reader.range(fresh.topic("conformed"), None):
        decoded = decoder.decode([message.value for message in messages if message.value])
        if not decoded.ok.all():
            found.broken.append("a record of conformed does not decode")
        names = [decoder.symbols[sid] for sid in decoded.sid.tolist()]
        for symbol, (time_ns, row) in zip(names, _rows(decoded.columns), strict=True):
            found.log.setdefault((symbol, time_ns), []).append(row)


def _read_storage(fresh: FreshPreset, reader: LogReader, found: Contents) -> None:
    for _, value, _ in reader.latest(fresh.topic("storage")):
        block = decode_block(value)
        key = block.symbol, block.block_start_ns
        if block.digest != block_digest(block.symbol, block.columns):
            found.broken.append(f"a block with another digest: {shown([key])}")
        found.digests[key] = block.digest
        for time_ns, row in _rows(block.columns):
            found.stored[block.symbol, time_ns] = row


def _rows(columns: ConformedColumns) -> list[tuple[int, Row]]:
    content = [getattr(columns, name).tolist() for name in CONTENT_FIELDS]
    rest = [getattr(columns, name).tolist() for name in ("source", "revision", "flags")]
    times = columns.open_time_ns.tolist()
    return [
        (
            times[i],
            Row(
                tuple(_value(column[i]) for column in content),
                SOURCES[rest[0][i]],
                rest[1][i],
                rest[2][i],
            ),
        )
        for i in range(len(times))
    ]


def _value(value: float | int) -> float | int | None:
    """NaN and -1 are null; -1 is no price and no size."""
    return None if value == -1 or math.isnan(value) else value
