"""A saved position: what a reader was handed out, small enough to be kept with every bar.

Decides: which facts say, for each version of a bar that Kafka holds later, whether it was handed
out, and how they look as JSON. A version was handed out when
  - its place (open time, symbol) lies in a segment: history is handed out in order of place, and
    each resume begins a new pass, so what lies before a place was told as it was known later; and
  - its known time is at most the segment's for its partition: known times grow strictly from one
    transaction of a partition to the next, and the reader had proved that it had seen all of them;
    or it is one of the few `rows` beyond it.
So no offset is kept: compaction and retention do not make a position old. Only a completion keeps
the known time of what it completes; `nulls` says which optional fields were null when told.
Invariants: bounded per symbol and partition (SEGMENTS_MAX, ROWS_MAX, GAPS_MAX, RUNS_MAX); SHA-256
covers every fact, a changed text is refused. Must not know: files, Kafka, how rows are judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import INT64_MAX
from seamline.streams.kernel.seam_events import Gap
from seamline.streams.kernel.seam_nulls import RUNS_MAX, Run

FORMAT: Final = 1
SEGMENTS_MAX: Final = 64
ROWS_MAX: Final = 100_000
GAPS_MAX: Final = 10_000
GAPS_KEPT: Final = 1_000
# Bounds of everything above, with room: a longer text is no position.
TEXT_MAX: Final = 64 * 2**20
_FIX: Final = "Give the text that `Position.to_json` or `seamline read --position` wrote, unchanged"

T = TypeVar("T")
Version = tuple[int, int]  # open_time_ns, revision
TellGap = tuple[int, int, str]  # start_ns, end_ns, cause


class Place(NamedTuple):
    """Where in the history: events are in order of (open time or start of the gap, symbol)."""

    open_time_ns: int
    symbol: str

    def limit_ns(self, symbol: str) -> int:
        """Cells of a symbol before this were handed out when this place was."""
        return self.open_time_ns + (symbol <= self.symbol)


@dataclass(frozen=True, slots=True)
class Segment:
    """Everything up to `place` (None: everything there is) as it was known at `known_ns`.

    `known_ns` is for each partition a known time that is proved to be seen whole; `rows` are what
    was handed out with a later one. `gaps` are the newest that were told of the ledger: a worker
    that starts writes its entries again, with a new known time, and they are no news."""

    place: Place | None
    known_ns: Mapping[int, int]
    rows: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)
    gaps: Mapping[str, tuple[TellGap, ...]] = field(default_factory=dict)


def overlaps(told: TellGap, gap: Gap) -> bool:
    """Whether one speaks of cells that the other speaks of."""
    return told[0] < gap.end_ns and gap.start_ns < told[1]


@dataclass(frozen=True, slots=True)
class Position:
    """What one reader was handed out; give it to `stitch(..., resume=position)`.

    `passed_ns`: for each symbol the time before which every cell was told, as a bar or as missing.
    Times are UTC nanoseconds.
    """

    preset_id: str
    cluster: str
    interval_ns: int
    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    segments: tuple[Segment, ...]
    passed_ns: Mapping[str, int]
    nulls: Mapping[str, tuple[Run, ...]]

    @property
    def caught_up(self) -> bool:
        """Whether all of a history had been handed out, once."""
        return any(segment.place is None for segment in self.segments)

    @property
    def sha256(self) -> str:
        """64 hex digits over every fact."""
        return _hash(self._facts())

    def to_json(self) -> str:
        """One line, without a line feed."""
        facts = self._facts()
        return json.dumps({**facts, "sha256": _hash(facts)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Position:
        """Raises UsageError for what is no position of this format, ContractError when the text was
        changed."""
        if not isinstance(text, str) or len(text) > TEXT_MAX:
            raise UsageError("no text of a position", parameter="position", fix=_FIX)
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError("not JSON", parameter="position", value=text[:80], fix=_FIX) from None
        if not isinstance(tree, dict) or "position" not in tree:
            raise UsageError("not a position", parameter="position", value=text[:80], fix=_FIX)
        if tree["position"] != FORMAT:
            raise UsageError(
                "a position of another format",
                parameter="position",
                value=tree["position"],
                fix=f"This program reads format {FORMAT}: read again from the start, or use the "
                "program that wrote it",
            )
        stated = tree.pop("sha256", None)
        computed = _hash(tree)
        if stated != computed:
            raise ContractError(
                "the position was changed after it was saved: its hash does not fit",
                parameter="sha256",
                value=stated,
                fix=_FIX,
                computed=computed,
            )
        return _position(tree)

    def _facts(self) -> dict[str, Any]:
        return {
            "position": FORMAT,
            "preset": self.preset_id,
            "cluster": self.cluster,
            "interval_ns": self.interval_ns,
            "symbols": list(self.symbols),
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "segments": [_segment_facts(segment) for segment in self.segments],
            "passed_ns": dict(self.passed_ns),
            "nulls": {name: [list(run) for run in runs] for name, runs in self.nulls.items()},
        }


def _segment_facts(segment: Segment) -> dict[str, Any]:
    return {
        "place": None if segment.place is None else list(segment.place),
        "known_ns": {str(partition): known for partition, known in segment.known_ns.items()},
        "rows": {name: [list(row) for row in rows] for name, rows in segment.rows.items()},
        "gaps": {name: [list(gap) for gap in gaps] for name, gaps in segment.gaps.items()},
    }


def _hash(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# from JSON: the hash fits, but whoever can make a hash can make a wrong field too


def _position(tree: Mapping[str, Any]) -> Position:
    symbols = tuple(_list(tree, "symbols", _text))
    if not symbols or list(symbols) != sorted(set(symbols)):
        raise _wrong("symbols", symbols, "names in order, each once")
    end = tree.get("end_ns")
    passed = _mapping(tree, "passed_ns", symbols, _whole)
    nulls = _mapping(tree, "nulls", symbols, _runs)
    segments = tuple(_list(tree, "segments", lambda at, item: _segment(at, item, symbols)))
    if not 1 <= len(segments) <= SEGMENTS_MAX:
        raise _wrong("segments", len(segments), f"1 to {SEGMENTS_MAX} segments")
    places = [segment.place for segment in segments]
    firm = [place for place in places if place is not None]
    if None in places[:-1] or firm != sorted(set(firm)):
        raise _wrong("segments", places, "places that rise, at most the last without one")
    known = {"position", "preset", "cluster", "interval_ns", "symbols", "start_ns", "end_ns"}
    unknown = set(tree) - known - {"segments", "passed_ns", "nulls"}
    if unknown:
        raise _wrong(min(unknown), tree[min(unknown)], "no field of this name")
    return Position(
        preset_id=_text("preset", tree.get("preset")),
        cluster=_text("cluster", tree.get("cluster")),
        interval_ns=_whole("interval_ns", tree.get("interval_ns")),
        symbols=symbols,
        start_ns=_whole("start_ns", tree.get("start_ns")),
        end_ns=None if end is None else _whole("end_ns", end),
        segments=segments,
        passed_ns=passed,
        nulls=nulls,
    )


def _segment(at: str, item: Any, symbols: tuple[str, ...]) -> Segment:
    if not isinstance(item, dict) or set(item) != {"place", "known_ns", "rows", "gaps"}:
        raise _wrong(at, item, "an object of place, known_ns, rows, gaps")
    place = item["place"]
    if place is not None:
        parts = _tuple(f"{at}.place", place, (_whole, _text))
        place = Place(*parts)
    known = item["known_ns"]
    if not isinstance(known, dict) or not all(map(_is_count, known)):
        raise _wrong(f"{at}.known_ns", known, "an object from partitions to known times")
    rows = _mapping(item, "rows", symbols, _versions, at)
    gaps = _mapping(item, "gaps", symbols, _gaps, at)
    return Segment(
        place,
        {int(p): _whole(f"{at}.known_ns.{p}", value) for p, value in known.items()},
        rows,
        gaps,
    )


def _runs(at: str, item: Any) -> tuple[Run, ...]:
    return tuple(_bounded(at, item, (_whole, _whole, _whole), RUNS_MAX))


def _versions(at: str, item: Any) -> tuple[Version, ...]:
    return tuple(_bounded(at, item, (_whole, _whole), ROWS_MAX))


def _gaps(at: str, item: Any) -> tuple[TellGap, ...]:
    return tuple(_bounded(at, item, (_whole, _whole, _text), GAPS_MAX))


def _bounded(at: str, item: Any, form: tuple[Any, ...], most: int) -> list[Any]:
    if not isinstance(item, list) or len(item) > most:
        raise _wrong(at, item, f"a list of at most {most}")
    return [_tuple(f"{at}[{i}]", one, form) for i, one in enumerate(item)]


def _tuple(at: str, item: Any, form: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(item, list) or len(item) != len(form):
        raise _wrong(at, item, f"a list of {len(form)}")
    return tuple(read(at, one) for read, one in zip(form, item, strict=True))


def _list(tree: Mapping[str, Any], name: str, read: Callable[[str, Any], T]) -> list[T]:
    item = tree.get(name)
    if not isinstance(item, list):
        raise _wrong(name, item, "a list")
    return [read(f"{name}[{i}]", one) for i, one in enumerate(item)]


def _mapping(
    tree: Mapping[str, Any],
    name: str,
    symbols: tuple[str, ...],
    read: Callable[[str, Any], T],
    at: str = "",
) -> dict[str, T]:
    item, where = tree.get(name), f"{at}.{name}" if at else name
    if not isinstance(item, dict) or not set(item) <= set(symbols):
        raise _wrong(where, item, "an object with names of the position's symbols")
    return {key: read(f"{where}.{key}", value) for key, value in item.items()}


def _whole(at: str, item: Any) -> int:
    if not isinstance(item, int) or isinstance(item, bool) or abs(item) > INT64_MAX:
        raise _wrong(at, item, "a whole number of int64")
    return item


def _text(at: str, item: Any) -> str:
    if not isinstance(item, str) or not item:
        raise _wrong(at, item, "a text")
    return item


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _wrong(at: str, value: object, wanted: str) -> UsageError:
    return UsageError(f"not {wanted}", parameter=f"position.{at}", value=value, fix=_FIX)
