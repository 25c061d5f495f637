"""Who breaks which rule, in numbers that stay small whatever comes.

Decides: what is told of failed records beside their number: rule, producer, schema id and symbol,
the 20 most frequent together, in a line of the log and in reports, and at most 10 samples of a rule
in a minute. Invariants: a record
counts once, under the first rule that it broke; every number adds up, what is not named is in
`others`; nothing grows with the data; nothing of this is ever a label of a metric. Must not know: a
clock, a log, what follows from a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import producer_of
from seamline.schemas.wire import schema_id_of
from seamline.streams.kernel.protocol import Record

TOP: Final = 20
SAMPLES: Final = 10
WINDOW_NS: Final = 60 * NS_PER_S
# Different failures that one window tells apart; a producer that makes names up gets no memory.
KEYS_MAX: Final = 1_000
TEXT_CHARS_MAX: Final = 64
DETAIL_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed record has in common with others. `schema_id` None: it named none."""

    rule: str
    producer: str
    schema_id: int | None
    symbol: str

    def __str__(self) -> str:
        return f"producer={self.producer} schema_id={self.schema_id} symbol={self.symbol}"


@dataclass(slots=True)
class FailedRecords:
    """The failed records of some steps. `samples`: rule -> places and details, SAMPLES at most;
    `others`: rule -> records of failures that are not told apart."""

    counts: Counter[Failure] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, rule: str, detail: str) -> None:
        """One record that broke `rule`."""
        symbol = _shown((record.key or b"").decode("utf-8", "replace"), TEXT_CHARS_MAX)
        failure = Failure(rule, producer_of(record.headers), schema_id_of(record.value), symbol)
        self._count(failure, 1)
        samples = self.samples.setdefault(rule, [])
        if len(samples) < SAMPLES:
            place = f"{record.topic}[{record.partition}]@{record.offset}"
            samples.append(f"{place} {failure} {_shown(detail, DETAIL_CHARS_MAX)}".rstrip())

    def update(self, more: FailedRecords) -> None:
        """Those of `more` too."""
        for failure, count in more.counts.items():
            self._count(failure, count)
        self.others.update(more.others)
        for rule, samples in more.samples.items():
            mine = self.samples.setdefault(rule, [])
            mine += samples[: SAMPLES - len(mine)]

    def _count(self, failure: Failure, count: int) -> None:
        if failure in self.counts or len(self.counts) < KEYS_MAX:
            self.counts[failure] += count
        else:
            self.others[failure.rule] += count

    def rules(self) -> dict[str, int]:
        """Rule -> failed records."""
        total = self.others.copy()
        for failure, count in self.counts.items():
            total[failure.rule] += count
        return dict(total)


@dataclass(slots=True)
class Untold:
    """What no report has said yet. `findings`: (symbol id, rule) -> rows. `failures`: symbol ->
    failed records, under "" those of symbols that have no reports; KEYS_MAX together."""

    findings: Counter[tuple[int, str]] = field(default_factory=Counter)
    failures: dict[str, Counter[Failure]] = field(default_factory=dict)

    def fail(self, detail: FailedRecords, has_reports: Callable[[str], bool]) -> None:
        """Records that failed; `has_reports`: whether a symbol has some. What is over KEYS_MAX is
        told by findings, counters and the log alone."""
        held = sum(map(len, self.failures.values()))
        for failure, count in detail.counts.items():
            symbol = failure.symbol if has_reports(failure.symbol) else ""
            of = self.failures.setdefault(symbol, Counter())
            if failure in of or held < KEYS_MAX:
                held += failure not in of
                of[failure] += count

    def told(self, symbol: str) -> list[dict[str, str | int]]:
        """Entries for the report of a symbol, the most first and then by name, TOP at most; those
        without a report of their own are in whichever comes first. Nothing of it is held any more.
        """
        found = self.failures.pop(symbol, Counter()) + self.failures.pop("", Counter())
        entries: list[dict[str, str | int]] = [
            {
                "rule": failure.rule,
                "producer": failure.producer,
                "schema_id": -1 if failure.schema_id is None else failure.schema_id,
                "symbol": failure.symbol,
                "count": count,
            }
            for failure, count in found.items()
        ]
        entries.sort(key=lambda entry: (-int(entry["count"]), *map(str, entry.values())))
        return entries[:TOP]


@dataclass(slots=True)
class Checked:
    """What became of the landed records of one subject under one policy. `seen`: records that were
    judged, heartbeats left out; `failed`: those that broke a rule; `blocked`: those of them that
    are in quarantine only because the mode is strict."""

    subject: str
    mode: str
    version: int
    seen: int = 0
    failed: int = 0
    blocked: int = 0
    detail: FailedRecords = field(default_factory=FailedRecords)


class Account:
    """What was checked and is not committed yet, by subject and policy."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], Checked] = {}

    def add(
        self,
        subject: str,
        mode: str,
        version: int,
        *,
        seen: int,
        failed: int,
        blocked: int,
        detail: FailedRecords,
    ) -> None:
        if not seen and not failed:
            return
        key = (subject, mode, version)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Checked(*key)
        held.seen += seen
        held.failed += failed
        held.blocked += blocked
        held.detail.update(detail)

    def taken(self) -> tuple[Checked, ...]:
        """All of it; nothing is held any more."""
        held, self._held = self._held, {}
        return tuple(held.values())


class FailureWindows:
    """Failures by subject, mode and rule, told once a window. `add` what was committed, then ask
    for `lines`."""

    def __init__(self, window_ns: int = WINDOW_NS) -> None:
        self._window_ns = window_ns
        self._held: dict[tuple[str, str, str], FailedRecords] = {}
        self._told_ns: dict[tuple[str, str, str], int] = {}

    def add(self, checked: Checked) -> None:
        for rule in checked.detail.rules():
            held = self._held.setdefault((checked.subject, checked.mode, rule), FailedRecords())
            held.update(_only(checked.detail, rule))

    def lines(self, now_ns: int) -> list[str]:
        """What is due: a rule that was silent for a window is told at once, then once a window."""
        told = []
        for key in list(self._held):
            said_ns = self._told_ns.get(key)
            # A clock that goes back delays a line by what it went back, no longer than a window.
            if said_ns is not None and 0 <= now_ns - said_ns < self._window_ns:
                continue
            self._told_ns[key] = now_ns
            told.append(_line(*key, self._held.pop(key)))
        return told


def _only(detail: FailedRecords, rule: str) -> FailedRecords:
    counts = Counter({f: count for f, count in detail.counts.items() if f.rule == rule})
    samples = {rule: detail.samples[rule]} if rule in detail.samples else {}
    others = Counter({rule: detail.others[rule]} if rule in detail.others else {})
    return FailedRecords(counts, samples, others)


def _line(subject: str, mode: str, rule: str, held: FailedRecords) -> str:
    total = held.rules()[rule]
    top = held.counts.most_common(TOP)
    named = [f"{count} {failure}" for failure, count in top]
    rest = total - sum(count for _, count in top)
    if rest:
        named.append(f"{rest} others")
    first = "; ".join(held.samples.get(rule, ()))
    return f"{subject} in {mode}: {total} records broke {rule}: {'; '.join(named)}; first: {first}"


def _shown(text: str, chars_max: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:chars_max])
