"""What a batch of bars must come to, in plain Python: by row, by identity, by cell.

Shares no code with `seamline.streams.kernel.temporal` but its inputs and the names of its bits;
integers have no bounds here, gaps are found by asking each cell.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from seamline.streams.kernel import temporal as t

FIELDS = ("open", "high", "low", "close", "volume")


@dataclass
class Identity:
    """What stands for one (symbol, time)."""

    rows: list[int]
    row: int
    rank: int
    revision: int = 0
    fields: dict[int, tuple[int, int]] = field(default_factory=dict)  # field -> rank, row


@dataclass
class Answer:
    rows: list[int]
    revision: list[int]
    patches: list[tuple[int, int, int]]
    log: list[tuple[int, int]]
    verdict: list[int]
    gaps: list[tuple[int, int, int]]
    misaligned: int


def answer(batch: t.BarBatch, symbols: int, rules: t.BarRules) -> Answer:
    n = len(batch.symbol)
    key = [(int(batch.open_time_ns[i]), int(batch.symbol[i])) for i in range(n)]
    verdict = [_values(batch, i) if len(batch.close) else 0 for i in range(n)]
    newest: dict[int, int] = {}
    stands: dict[tuple[int, int], Identity] = {}
    log: list[tuple[int, int]] = []
    for i, (time, symbol) in enumerate(key):
        if time < newest.get(symbol, time):
            verdict[i] |= t.OUT_OF_ORDER
        newest[symbol] = max(time, newest.get(symbol, time))
        if rules.interval_ns and (time - rules.origin_ns) % rules.interval_ns:
            verdict[i] |= t.OFF_GRID | t.DROPPED
        elif (time, symbol) in stands:
            stands[time, symbol].rows.append(i)
            _meet(batch, stands[time, symbol], i, verdict, log)
        else:
            rank = int(batch.authority[i]) if len(batch.authority) else 0
            told = {j: (rank, i) for j in range(len(batch.optional)) if not _null(batch, j, i)}
            stands[time, symbol] = Identity([i], i, rank, 0, told)
            log.append((i, 0))
    for identity in stands.values():
        seen = 0
        for i in identity.rows:
            seen |= verdict[i] & (t.DUPLICATE_EQUAL | t.DUPLICATE_CONFLICT)
        for i in identity.rows:
            verdict[i] |= seen
    order = sorted(stands)
    rows = [stands[k].row for k in order]
    patches = [
        (place, j, row)
        for place, k in enumerate(order)
        for j, (_, row) in sorted(stands[k].fields.items())
        if _null(batch, j, stands[k].row)
        or batch.optional[j, row] != batch.optional[j, stands[k].row]
    ]
    if rules.jump_sigmas is not None and len(batch.close):
        _jumps(batch, rows, rules, verdict)
    return Answer(
        rows,
        [stands[k].revision for k in order],
        patches,
        log,
        verdict,
        _gaps(order, symbols, rules),
        _misaligned(key, rules),
    )


def _null(batch: t.BarBatch, j: int, i: int) -> bool:
    return math.isnan(batch.optional[j, i])


def _values(batch: t.BarBatch, i: int) -> int:
    o, h, low, c, v = (float(getattr(batch, name)[i]) for name in FIELDS)
    finite = {
        name: x for name, x in zip("ohlcv", (o, h, low, c, v), strict=True) if math.isfinite(x)
    }
    found = 0 if len(finite) == 5 else t.NON_FINITE
    order = [("l", "h"), ("l", "o"), ("l", "c"), ("o", "h"), ("c", "h")]
    if any(a in finite and b in finite and finite[a] > finite[b] for a, b in order):
        found |= t.OHLC_INCONSISTENT
    if any(finite.get(name, 1.0) <= 0 for name in "ohlc"):
        found |= t.NON_POSITIVE_PRICE
    if finite.get("v", 0.0) < 0:
        found |= t.NEGATIVE_VOLUME
    return found


def _meet(
    batch: t.BarBatch, held: Identity, i: int, verdict: list[int], log: list[tuple[int, int]]
) -> None:
    rank = int(batch.authority[i]) if len(batch.authority) else 0

    def content(row: int) -> list[float]:
        prices = [float(getattr(batch, name)[row]) for name in FIELDS if len(batch.close)]
        return prices + ([int(batch.other[row])] if len(batch.other) else [])

    same = all(
        a == b or (math.isnan(a) and math.isnan(b))
        for a, b in zip(content(held.row), content(i), strict=True)
    )
    filled = confirmed = replaced = fought = unheard = False
    for j in range(len(batch.optional)):
        if _null(batch, j, i):
            continue
        if j not in held.fields:
            filled = True
            held.fields[j] = (rank, i)
            continue
        its_rank, row = held.fields[j]
        equal = batch.optional[j, row] == batch.optional[j, i]
        if rank > its_rank:
            unheard |= not equal
        elif not equal:
            replaced = True
            fought |= rank == its_rank
            held.fields[j] = (rank, i)
        elif rank < its_rank:
            confirmed = True
            held.fields[j] = (rank, i)
    conflict = fought or (not same and rank == held.rank)
    takes = not same and rank <= held.rank
    raised = same and rank < held.rank
    equal_content = same and not (replaced or unheard)
    if conflict:
        verdict[i] |= t.DUPLICATE_CONFLICT
    if equal_content:
        verdict[i] |= t.DUPLICATE_EQUAL | t.DROPPED | t.REPEATED
    if takes or replaced:
        held.revision += 1
        log.append((i, held.revision))
        verdict[i] |= 0 if conflict else t.REVISED
        if takes or same:
            verdict[held.row] |= t.DROPPED if conflict else 0
            held.row = i
        elif conflict:
            verdict[i] |= t.DROPPED
    elif filled:
        verdict[i] |= t.COMPLETED
    elif raised or confirmed:
        verdict[i] |= t.RAISED
    elif not equal_content:
        verdict[i] |= t.DISCARDED
    if takes or raised:
        held.rank = rank


def _jumps(batch: t.BarBatch, rows: list[int], rules: t.BarRules, verdict: list[int]) -> None:
    assert rules.jump_sigmas is not None
    closes: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        close = float(batch.close[row])
        if math.isfinite(close) and close > 0:
            closes[int(batch.symbol[row])].append((row, close))
    for series in closes.values():
        squares: list[float] = []
        for (_, before), (row, close) in pairwise(series):
            change = close / before - 1
            square = change * change  # infinity where ** would refuse
            weights = [rules.jump_decay**k for k in range(len(squares))][::-1]
            if len(squares) >= 16 and any(squares):
                total = math.fsum(w * s for w, s in zip(weights, squares, strict=True))
                variance = total / math.fsum(weights)
                if square > rules.jump_sigmas**2 * variance:
                    verdict[row] |= t.PRICE_JUMP
            squares += [square] if square < math.inf else []


def _gaps(
    order: list[tuple[int, int]], symbols: int, rules: t.BarRules
) -> list[tuple[int, int, int]]:
    """Ask every cell between the first and the last time that matter."""
    found: list[tuple[int, int, int]] = []
    step = rules.interval_ns
    if not step:
        return found
    for symbol in range(symbols):
        present = {time for time, s in order if s == symbol}
        if rules.window_ns is not None:
            first, end = rules.window_ns
        elif present:
            first, end = min(present), max(present) + 1
        else:
            continue
        first += (rules.origin_ns - first) % step
        run = None
        for cell in range(first, end, step):
            open_ = rules.sessions_ns is None or any(
                a <= cell < b for a, b in rules.sessions_ns.tolist()
            )
            if cell in present or not open_:
                run = None
            elif run is None:
                run = cell
                found.append((symbol, cell, cell + step))
            else:
                found[-1] = (symbol, run, cell + step)
    return found


def _misaligned(key: list[tuple[int, int]], rules: t.BarRules) -> int:
    step = rules.interval_ns
    if not step:
        return 0
    times = defaultdict(set)
    for time, symbol in key:
        times[symbol].add(time)
    return sum(
        b - a > step and (b - a) % step != 0
        for found in times.values()
        for a, b in pairwise(sorted(found))
    )


def differences(made: t.Conformed, wanted: Answer) -> list[str]:
    """The names of the outputs that differ."""
    pairs = {
        "rows": (made.rows.tolist(), wanted.rows),
        "revision": (made.revision.tolist(), wanted.revision),
        "patches": ([tuple(p) for p in made.patches.tolist()], wanted.patches),
        "log": (
            list(zip(made.log_rows.tolist(), made.log_revision.tolist(), strict=True)),
            wanted.log,
        ),
        "verdict": (made.verdict.tolist(), wanted.verdict),
        "gaps": ([tuple(g) for g in made.gaps.tolist()], wanted.gaps),
        "misaligned": (made.misaligned, wanted.misaligned),
    }
    return [f"{name}: {a} != {b}" for name, (a, b) in pairs.items() if a != b]


def batch_of(
    symbol: list[int],
    time: list[int],
    values: list[list[float]] | None = None,
    optional: list[list[float]] | None = None,
    other: list[int] | None = None,
    authority: list[int] | None = None,
) -> t.BarBatch:
    """A batch from rows in plain lists; `values` and `optional` are lists of rows."""
    n = len(symbol)
    prices = np.array(values or [], np.float64).reshape(-1, 5).T.copy()
    fields = np.array(optional).reshape(n, 4).T if optional is not None else np.empty((0, n))
    return t.BarBatch(
        np.array(symbol, np.int32),
        np.array(time, np.int64),
        *(prices[0], prices[1], prices[2], prices[3], prices[4]),
        np.ascontiguousarray(fields, np.float64),
        np.array([] if other is None else other, np.int64),
        np.array([] if authority is None else authority, np.uint8),
    )
