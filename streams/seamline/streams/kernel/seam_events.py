"""What a reader of the seam gets: events, and the error that ends a stream.

Decides: the form of an event and how columns become bars. Invariants: an event never changes after
it was handed out; a bar's `content` is what digests and comparisons use, nothing else. `Bar` is a
named tuple because a reader makes one for each bar of history: measured 1.7 M/s against 0.5 M/s for
a frozen slotted dataclass. Must not know: Kafka, clocks, how a certificate is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from seamline.schemas.columns import (
    F8,
    I8,
    PROVISIONAL,
    SOURCES,
    Bool,
    ConformedColumns,
)
from seamline.schemas.errors import ContractError
from seamline.schemas.times import format_time
from seamline.streams.kernel.seam_certificate import Certificate

NO_TRADES = "no_trades"
UNKNOWN = "unknown"
NOT_BACKFILLED = "not_backfilled"

# Bars made at once: large enough for speed, small enough that a slow consumer holds little.
BATCH_ROWS = 8_192


class Bar(NamedTuple):
    """One closed bar. `provisional`: fewer than the preset's `stabilization_bars` newer bars of its
    symbol had closed when it was delivered. Optional fields are None where no source tells them."""

    symbol: str
    open_time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None
    trades: int | None
    first_trade_id: int | None
    last_trade_id: int | None
    source: str
    revision: int
    flags: int
    known_time_ns: int
    provisional: bool

    @property
    def content(self) -> tuple[float | int | None, ...]:
        """Open to last_trade_id: what two sources can agree or disagree on."""
        return self[2:11]

    def completes(self, other: Bar) -> bool:
        """Same values where `other` has one, and at least one where it has none."""
        if self[2:7] != other[2:7] or self[7:11] == other[7:11]:
            return False
        pairs = zip(self[7:11], other[7:11], strict=True)
        return all(old is None or new == old for new, old in pairs)


@dataclass(frozen=True, slots=True)
class Revision:
    """A delivered bar has another content now. `previous` has the content that was delivered (None
    when that is longer ago than the reader remembers); its revision may be a later one with this
    same content. `completed`: only nulls were filled, same revision."""

    bar: Bar
    previous: Bar | None
    completed: bool = False


@dataclass(frozen=True, slots=True)
class LateBar:
    """A bar of a time that was passed already and had not been delivered."""

    bar: Bar


@dataclass(frozen=True, slots=True)
class Gap:
    """Bars that are expected in `[start_ns, end_ns)` and are not there. `provisional`: the span is
    not sealed; the bars may come as `LateBar`, or another `Gap` states the ledger's cause.
    `known_time_ns`: when the ledger learned the cause, None without an entry; no part of equality.
    """

    symbol: str
    start_ns: int
    end_ns: int
    bars: int
    cause: str
    provisional: bool = False
    known_time_ns: int | None = field(default=None, compare=False, repr=False)

    def fields(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "start": format_time(self.start_ns),
            "end": format_time(self.end_ns),
            "bars": self.bars,
            "cause": self.cause,
        }


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was committed when the reader started has been delivered."""

    certificate: Certificate


Event = Bar | Revision | LateBar | Gap | CaughtUp


class SeamBroken(ContractError):  # noqa: N818 - the name of the public contract
    """History and live do not join, or what is between them cannot be proved.

    `cause` is a code; `missing` lists gaps (symbol, start, end, bars, cause); `command` repairs.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: str,
        missing: Sequence[Gap] = (),
        command: str | None = None,
        **fields: Any,
    ) -> None:
        self.cause = cause
        self.missing = tuple(missing)
        self.command = command
        super().__init__(
            message,
            fix=None if command is None else f"Repair: {command}",
            cause=cause,
            missing=tuple(gap.fields() for gap in missing),
            command=command,
            **fields,
        )


def bars_of(
    symbols: str | Sequence[str], columns: ConformedColumns, provisional: Bool | None = None
) -> Iterator[Bar]:
    """The rows as bars, in order. `symbols` is one name, or one for each row; `provisional` one
    bool for each row (default: the row's own flag)."""
    rows = len(columns)
    young = (columns.flags & PROVISIONAL) != 0 if provisional is None else provisional
    for at in range(0, rows, BATCH_ROWS):
        part = slice(at, min(at + BATCH_ROWS, rows))
        size = part.stop - part.start
        names = [symbols] * size if isinstance(symbols, str) else symbols[part]
        yield from map(
            Bar,
            names,
            columns.open_time_ns[part].tolist(),
            columns.open[part].tolist(),
            columns.high[part].tolist(),
            columns.low[part].tolist(),
            columns.close[part].tolist(),
            columns.volume[part].tolist(),
            _floats(columns.quote_volume[part]),
            _counts(columns.trades[part]),
            _counts(columns.first_trade_id[part]),
            _counts(columns.last_trade_id[part]),
            map(SOURCES.__getitem__, columns.source[part].tolist()),
            columns.revision[part].tolist(),
            columns.flags[part].tolist(),
            columns.known_time_ns[part].tolist(),
            young[part].tolist(),
        )


def _floats(column: F8) -> list[float | None]:
    values: list[float | None] = column.tolist()
    nulls = np.isnan(column)
    if nulls.any():
        return [None if null else value for value, null in zip(values, nulls.tolist(), strict=True)]
    return values


def _counts(column: I8) -> list[int | None]:
    values: list[int | None] = column.tolist()
    if (column < 0).any():
        return [None if value is not None and value < 0 else value for value in values]
    return values
