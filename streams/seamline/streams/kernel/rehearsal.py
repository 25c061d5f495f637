"""What a rehearsal found: the evidence that a promotion is judged by.

Decides: which numbers a rehearsal states and how they are written into the audit log. Invariants:
an `Evidence` adds up (each breakdown has the sum of what it breaks down); `from_json` refuses what
does not, whoever wrote it; names are bounded to the TOP most frequent and `others`, rules are few
by nature. Must not know: Kafka, the clock, whether the numbers are good enough (promotion).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from seamline.schemas.errors import ContractError

FORMAT: Final = 1
TOP: Final = 20
OTHERS: Final = "others"
SAMPLES: Final = 3
NOTES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was really there to read, by the times the broker gave the records (ns).

    `records` without heartbeats. `longest_silence_ns`: the longest time in which no partition got a
    record, between the first record and the last and from the last to the end of the window; exact
    where it is longer than the bucket of a minute (of a 65,536th part of a longer window). All 0
    when nothing was read.
    """

    first_ns: int = 0
    last_ns: int = 0
    records: int = 0
    longest_silence_ns: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """One finished rehearsal of `subject` over the records of `topic` that the broker got from
    `since_ns` on, up to the fence that was taken at `ended_ns` (UTC ns); `window_ns` lies between.
    Of a preset of kind trades, what is said of bars here is said of trades.

    records              committed records that were judged; heartbeats are none
    bars                 bars that strict lets into conformed, repeats counted
    blocked_records      records that strict puts into quarantine, wholly or in part
    blocked_in_canary    those of them that canary puts there as well
    blocked_bars         closed bars in blocked records whose symbol and time can be read
    missing_bars         identities among them of which no bar was accepted in the replay
    stale_minutes        for how long, in the time of the bars, the newest accepted bar of a symbol
                         would have been older than in canary, summed over symbols
    by_rule, by_schema, by_producer, by_symbol
                         blocked records by stated reason, writer schema (`bar v1`, `id 77` or
                         `none`), header `seamline-producer`, symbol of the value (of the key where
                         the value does not decode)
    samples              rule -> the first few places as (partition, offset)
    partitions           number -> (first, end) offsets that were read
    mode_version         version of the subject's mode at the fence, 0 where none was ever set
    complete             False: a registry or a limit kept some numbers from being final
    notes                sentences for people: what was read really, what is not exact
    """

    subject: str
    topic: str
    bundle_sha256: str
    since_ns: int
    window_ns: int
    ended_ns: int
    records: int
    bars: int
    blocked_records: int
    blocked_in_canary: int
    blocked_bars: int
    missing_bars: int
    stale_minutes: float
    by_rule: Mapping[str, int]
    by_schema: Mapping[str, int]
    by_producer: Mapping[str, int]
    by_symbol: Mapping[str, int]
    samples: Mapping[str, tuple[tuple[int, int], ...]]
    partitions: Mapping[int, tuple[int, int]]
    traffic: Traffic
    mode_version: int
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Strict would have blocked nothing, and that is certain."""
        return self.complete and self.blocked_records == 0

    def to_json(self) -> dict[str, Any]:
        """Values of JSON only; `from_json` gives an equal Evidence back."""
        plain: dict[str, Any] = {"format": FORMAT}
        for each in fields(self):
            plain[each.name] = getattr(self, each.name)
        for name in _COUNTS:
            plain[name] = dict(plain[name])
        plain["samples"] = {
            rule: [list(p) for p in places] for rule, places in self.samples.items()
        }
        plain["partitions"] = {str(n): list(span) for n, span in self.partitions.items()}
        plain["traffic"] = {f.name: getattr(self.traffic, f.name) for f in fields(Traffic)}
        plain["notes"] = list(self.notes)
        return plain

    @classmethod
    def from_json(cls, value: object) -> Evidence:
        """Raises ContractError, naming the field, for what `to_json` cannot have written."""
        found = _mapping(value, "evidence")
        if found.get("format") != FORMAT:
            raise _refused("format", found.get("format"), f"Write it as format {FORMAT}")
        known = {each.name for each in fields(cls)} | {"format"}
        for name in sorted(known ^ found.keys()):
            raise _refused(name, found.get(name), "No field is optional and none is unknown")
        made = {each.name: found[each.name] for each in fields(cls)}
        for name in ("subject", "topic", "bundle_sha256"):
            _text(made[name], name)
        for name in _INTEGERS:
            _count(made[name], name)
        for name in _COUNTS:
            counts = _mapping(made[name], name)
            made[name] = {_text(key, name): _count(n, name) for key, n in counts.items()}
        made["stale_minutes"] = _minutes(made["stale_minutes"])
        made["samples"] = _samples(made["samples"])
        made["partitions"] = _partitions(made["partitions"])
        made["traffic"] = _traffic(made["traffic"])
        if not isinstance(made["complete"], bool):
            raise _refused("complete", made["complete"], "true or false")
        notes = made["notes"]
        if not isinstance(notes, list) or len(notes) > NOTES_MAX:
            raise _refused("notes", notes, f"A list of at most {NOTES_MAX} sentences")
        made["notes"] = tuple(_text(note, "notes") for note in notes)
        evidence = cls(**made)
        evidence._adds_up()
        return evidence

    def _adds_up(self) -> None:
        for name in _COUNTS:
            total = sum(getattr(self, name).values())
            if total != self.blocked_records:
                fix = f"Its sum must be blocked_records = {self.blocked_records}"
                raise _refused(name, total, fix)
        for name, most in (
            ("blocked_records", self.records),
            ("blocked_in_canary", self.blocked_records),
            ("missing_bars", self.blocked_bars),
        ):
            if getattr(self, name) > most:
                raise _refused(name, getattr(self, name), f"At most {most}")
        if self.ended_ns - self.since_ns != self.window_ns:
            raise _refused("window_ns", self.window_ns, "It is ended_ns - since_ns")
        if self.traffic.records != self.records:
            raise _refused("traffic", self.traffic.records, f"Its records are {self.records}")


_COUNTS: Final = ("by_rule", "by_schema", "by_producer", "by_symbol")
_INTEGERS: Final = (
    *("since_ns", "window_ns", "ended_ns", "records", "bars", "blocked_records"),
    *("blocked_in_canary", "blocked_bars", "missing_bars", "mode_version"),
)


def top(counts: Mapping[str, int], limit: int = TOP) -> dict[str, int]:
    """The most frequent names, by count and then by name, and the sum of the rest as `others`."""
    ranked = sorted(counts.items(), key=lambda item: (item[0] == OTHERS, -item[1], item[0]))
    kept = dict(ranked[:limit])
    rest = sum(count for _, count in ranked[limit:])
    if rest:
        kept[OTHERS] = kept.get(OTHERS, 0) + rest
    return kept


def _refused(name: str, value: object, fix: str) -> ContractError:
    return ContractError("not the evidence of a rehearsal", parameter=name, value=value, fix=fix)


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refused(name, value, "A JSON object")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise _refused(name, value, "Text, not empty")
    return value


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refused(name, value, "An integer, not below 0")
    return value


def _minutes(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise _refused("stale_minutes", value, "Finite minutes, not below 0")
    return float(value)


def _pair(value: object, name: str) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _refused(name, value, "Two integers")
    return _count(value[0], name), _count(value[1], name)


def _samples(value: object) -> dict[str, tuple[tuple[int, int], ...]]:
    made = {}
    for rule, places in _mapping(value, "samples").items():
        if not isinstance(places, Iterable) or isinstance(places, str):
            raise _refused("samples", places, "A list of places")
        made[rule] = tuple(_pair(place, "samples") for place in places)
        if len(made[rule]) > SAMPLES:
            raise _refused("samples", len(made[rule]), f"At most {SAMPLES} of a rule")
    return made


def _partitions(value: object) -> dict[int, tuple[int, int]]:
    made = {}
    for number, span in _mapping(value, "partitions").items():
        if not number.isascii() or not number.isdigit():
            raise _refused("partitions", number, "A partition's number")
        first, end = _pair(span, "partitions")
        if end < first:
            raise _refused("partitions", span, "First and end offset, the end not before the first")
        made[int(number)] = (first, end)
    return made


def _traffic(value: object) -> Traffic:
    found = _mapping(value, "traffic")
    if found.keys() != {each.name for each in fields(Traffic)}:
        raise _refused("traffic", value, "The fields of Traffic")
    return Traffic(**{name: _count(n, f"traffic.{name}") for name, n in found.items()})
