"""The totals of a rehearsal, kept so that it can stop anywhere and go on.

Decides: how judged batches add up to the evidence, which bars would be missing, and how stale a
symbol would have been. Invariants: the totals depend on the records of each partition in their
order and on nothing else (not on batches, not on how partitions interleave, not on a stop and a
resume between batches); memory is bounded, and what a bound cost is said in the notes. Must not
know: Kafka, files, rules.

Missing: a blocked closed bar is missing when no bar of its symbol and cell was accepted in the
replay, before it or after it. Another landing topic may have brought it: that is not looked at.

Stale: time is that of the bars. In canary the newest accepted bar of a symbol moves from cell to
cell; for each such move the time in between counts as stale if strict's newest bar was older. A run
of k blocked bars at the newest edge so counts k intervals, whatever comes to fill it in later, and
so does one at the very end (its last bar is stale for one interval at least). A symbol is stale for
the length of the window at most: one absurd time in a bar must not outweigh everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import I8
from seamline.schemas.errors import ContractError
from seamline.schemas.jit import njit
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.streams.kernel.level import UNSET
from seamline.streams.kernel.rehearsal import OTHERS, SAMPLES, Evidence, Traffic, top
from seamline.streams.kernel.rehearsal_judge import Bars, Judged
from seamline.streams.kernel.writers import REGISTRY_UNAVAILABLE

NAMES_MAX: Final = 65_536
SYMBOLS_MAX: Final = 1 << 20
# Runs of accepted cells, and blocked bars: 16 and 8 MB at most.
RUNS_MAX: Final = 1_000_000
BLOCKED_MAX: Final = 1_000_000
PENDING_MAX: Final = 200_000
BUCKET_NS: Final = 60 * NS_PER_S
BUCKETS_MAX: Final = 65_536
# A bar's identity as one number: symbol, then cell. 43 bits hold a 1 ms grid up to the year 2109.
CELL_BITS: Final = 43
_HALF: Final = 1 << (CELL_BITS - 1)
_COUNTS: Final = ("by_rule", "by_schema", "by_producer", "by_symbol")
_TOTALS: Final = ("records", "bars", "blocked_records", "blocked_in_canary", "blocked_bars")


@njit
def advance(
    symbols: Any, cells: Any, strict: Any, canary: Any, newest: Any, fresh: Any, stale: Any
) -> None:
    """Move the newest bar of canary (`newest`) and of strict (`fresh`) by symbol, and add to
    `stale` the cells for which the second was the older one."""
    for i in range(len(symbols)):
        symbol, cell = symbols[i], cells[i]
        if canary[i] and cell > newest[symbol]:
            if newest[symbol] > fresh[symbol]:
                stale[symbol] += cell - newest[symbol]
            newest[symbol] = cell
        if strict[i] and cell > fresh[symbol]:
            fresh[symbol] = cell


class Tally:
    """Totals over all partitions of one topic; times of records in ms. `interval_ns`: of a cell by
    which staleness is counted."""

    def __init__(self, *, since_ns: int, ended_ns: int, interval_ns: int) -> None:
        self._since_ns = since_ns
        self._ended_ns = ended_ns
        self._interval_ns = interval_ns
        window_ns = max(1, ended_ns - since_ns)
        self._bucket_ms = max(BUCKET_NS, -(-window_ns // BUCKETS_MAX)) // NS_PER_MS
        self.totals: Counter[str] = Counter(dict.fromkeys(_TOTALS, 0))
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in _COUNTS}
        self.samples: dict[str, list[tuple[int, int]]] = {}
        # Bucket -> first and last time in it, ms.
        self._buckets: dict[int, tuple[int, int]] = {}
        self._names: dict[str, int] = {}
        self._numbers: dict[int, I8] = {}
        # Rows: newest cell of canary, of strict, stale cells.
        self._edge = np.empty((3, 0), np.int64)
        self._runs = np.empty((2, 0), np.int64)
        self._blocked = np.empty(0, np.int64)
        self._fresh: list[I8] = []
        self._fresh_rows = 0
        self.overflow: set[str] = set()

    def take(self, partition: int, judged: Judged, symbols: Sequence[str]) -> None:
        """Add a batch of a partition, in the order of the log; `symbols` of its judge."""
        self.totals["records"] += judged.records
        self.totals["bars"] += judged.accepted
        self._traffic(judged.times_ms)
        for each in judged.blocked:
            self.totals["blocked_records"] += 1
            self.totals["blocked_in_canary"] += each.in_canary
            self.totals["blocked_bars"] += each.bars
            labels = (each.reason, each.schema, each.producer, each.symbol)
            for name, label in zip(_COUNTS, labels, strict=True):
                self._count(self.counts[name], label)
            places = self.samples.setdefault(each.reason, [])
            if len(places) < SAMPLES or (each.partition, each.offset) < places[-1]:
                self.samples[each.reason] = sorted([*places, (each.partition, each.offset)])[
                    :SAMPLES
                ]
        if judged.inexact:
            self.overflow.add("series")
        numbers = self._learn(partition, symbols)
        for bars in judged.bars:
            self._bars(numbers, bars)

    def _count(self, counts: Counter[str], label: str) -> None:
        counts[label if label in counts or len(counts) < NAMES_MAX else OTHERS] += 1

    def _traffic(self, times_ms: I8) -> None:
        if not len(times_ms):
            return
        buckets = times_ms // self._bucket_ms
        for bucket in np.unique(buckets).tolist():
            times = times_ms[buckets == bucket]
            first, last = int(times.min()), int(times.max())
            held = self._buckets.get(bucket, (first, last))
            self._buckets[bucket] = min(held[0], first), max(held[1], last)

    def _learn(self, partition: int, symbols: Sequence[str]) -> I8:
        known = self._numbers.get(partition, np.empty(0, np.int64))
        if len(symbols) > len(known):
            for name in symbols[len(known) :]:
                self._names.setdefault(name, len(self._names))
            fresh = [self._names[name] for name in symbols[len(known) :]]
            known = np.concatenate([known, np.array(fresh, np.int64)])
            self._numbers[partition] = known
            if len(self._names) > SYMBOLS_MAX:
                raise ContractError(
                    f"more than {SYMBOLS_MAX} symbols in one topic",
                    parameter="symbols",
                    value=len(self._names),
                )
            more = np.full((3, len(self._names) - self._edge.shape[1]), UNSET, np.int64)
            more[2] = 0
            self._edge = np.concatenate([self._edge, more], axis=1)
        return known

    def _bars(self, numbers: I8, bars: Bars) -> None:
        if not len(bars.symbols):
            return
        symbols = numbers[bars.symbols]
        newest, fresh, stale = self._edge
        advance(symbols, bars.cells, bars.strict, bars.canary, newest, fresh, stale)
        series = symbols if bars.series is None else numbers[bars.series]
        cells = bars.cells if bars.numbers is None else bars.numbers
        keys = (series << CELL_BITS) + np.clip(cells + _HALF, 0, 2 * _HALF - 1)
        if bars.strict.all():
            accepted = keys
        else:
            accepted = keys[bars.strict]
            if len(self._blocked) < BLOCKED_MAX:
                found = np.unique(np.concatenate([self._blocked, keys[~bars.strict]]))
                self._blocked = found[:BLOCKED_MAX]
                if len(found) > BLOCKED_MAX:
                    self.overflow.add("blocked")
        if len(accepted):
            self._fresh.append(accepted)
            self._fresh_rows += len(accepted)
        if self._fresh_rows >= PENDING_MAX:
            self._fold()

    def _fold(self) -> None:
        """Accepted cells into runs [start, end] of neighbours: history is contiguous, so there are
        few. Past RUNS_MAX the newest are let go; then missing bars are an upper bound."""
        if not self._fresh:
            return
        keys = np.unique(np.concatenate(self._fresh))
        self._fresh, self._fresh_rows = [], 0
        starts = np.concatenate([self._runs[0], keys])
        ends = np.concatenate([self._runs[1], keys])
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        begins = np.ones(len(starts), bool)
        begins[1:] = starts[1:] > ends[:-1] + 1
        first = np.flatnonzero(begins)
        runs = np.stack([starts[first], ends[np.append(first[1:], len(ends)) - 1]])
        if runs.shape[1] > RUNS_MAX:
            self.overflow.add("accepted")
        self._runs = runs[:, :RUNS_MAX]

    def missing(self) -> int:
        """Blocked bars of which the replay accepted none."""
        self._fold()
        starts, ends = self._runs
        at = np.searchsorted(starts, self._blocked, side="right") - 1
        covered = np.zeros(len(self._blocked), bool)
        inside = at >= 0
        covered[inside] = self._blocked[inside] <= ends[at[inside]]
        return int(np.count_nonzero(~covered))

    def stale_minutes(self) -> float:
        newest, fresh, stale = self._edge
        cells = stale + (newest > fresh)
        most = -(-(self._ended_ns - self._since_ns) // self._interval_ns)
        total_ns = sum(min(int(n), most) for n in cells[cells > 0]) * self._interval_ns
        return total_ns / (60 * NS_PER_S)

    def traffic(self) -> Traffic:
        if not self._buckets:
            return Traffic()
        spans = [self._buckets[bucket] for bucket in sorted(self._buckets)]
        ended_ms = self._ended_ns // NS_PER_MS
        nexts = [first for first, _ in spans[1:]] + [max(ended_ms, spans[-1][1])]
        silence = max(after - last for (_, last), after in zip(spans, nexts, strict=True))
        return Traffic(
            first_ns=max(0, spans[0][0] * NS_PER_MS),
            last_ns=max(0, spans[-1][1] * NS_PER_MS),
            records=self.totals["records"],
            longest_silence_ns=silence * NS_PER_MS,
        )

    def evidence(
        self,
        *,
        subject: str,
        topic: str,
        bundle_sha256: str,
        partitions: Mapping[int, tuple[int, int]],
        mode_version: int,
        notes: Sequence[str] = (),
    ) -> Evidence:
        """What all batches so far say."""
        said = list(notes)
        unavailable = self.counts["by_rule"][REGISTRY_UNAVAILABLE]
        if unavailable:
            said.append(
                f"incomplete: the registry did not answer for the schemas of {unavailable} "
                "records; rehearse again when it does"
            )
        missing = self.missing()
        if self.overflow:
            said.append("incomplete: more bars than the limits hold; missing_bars is not exact")
        totals, counts = self.totals, {n: top(each) for n, each in self.counts.items()}
        return Evidence(
            subject=subject,
            topic=topic,
            bundle_sha256=bundle_sha256,
            since_ns=self._since_ns,
            window_ns=self._ended_ns - self._since_ns,
            ended_ns=self._ended_ns,
            records=totals["records"],
            bars=totals["bars"],
            blocked_records=totals["blocked_records"],
            blocked_in_canary=totals["blocked_in_canary"],
            blocked_bars=totals["blocked_bars"],
            missing_bars=missing,
            stale_minutes=self.stale_minutes(),
            by_rule=counts["by_rule"],
            by_schema=counts["by_schema"],
            by_producer=counts["by_producer"],
            by_symbol=counts["by_symbol"],
            samples={rule: tuple(places) for rule, places in sorted(self.samples.items())},
            partitions=dict(sorted(partitions.items())),
            traffic=self.traffic(),
            mode_version=mode_version,
            complete=not unavailable and not self.overflow,
            notes=tuple(said),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything that `from_json` needs to go on between two batches."""
        self._fold()
        return {
            "since_ns": self._since_ns,
            "ended_ns": self._ended_ns,
            "interval_ns": self._interval_ns,
            "totals": dict(self.totals),
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
            "samples": self.samples,
            "buckets": [[bucket, *span] for bucket, span in self._buckets.items()],
            "names": list(self._names),
            "edge": self._edge.tolist(),
            "runs": self._runs.tolist(),
            "blocked": self._blocked.tolist(),
            "overflow": sorted(self.overflow),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Tally:
        """Raises KeyError, TypeError or ValueError for what `to_json` cannot have written; whoever
        keeps it says what that means."""
        made = cls(**{name: int(plain[name]) for name in ("since_ns", "ended_ns", "interval_ns")})
        made.totals = Counter({name: int(plain["totals"][name]) for name in _TOTALS})
        made.counts = {name: Counter(plain["counts"][name]) for name in _COUNTS}
        made.samples = {
            rule: [(int(p), int(at)) for p, at in places]
            for rule, places in plain["samples"].items()
        }
        made._buckets = {int(at): (int(first), int(last)) for at, first, last in plain["buckets"]}
        made._names = {str(name): number for number, name in enumerate(plain["names"])}
        made._edge = np.array(plain["edge"], np.int64).reshape(3, len(made._names))
        made._runs = np.array(plain["runs"], np.int64).reshape(2, -1)
        made._blocked = np.array(plain["blocked"], np.int64)
        made.overflow = {str(each) for each in plain["overflow"]}
        return made
