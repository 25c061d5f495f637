"""When a stream may not begin or go on: which gaps stand in the way, and the errors that say so.

Decides: what blocks under `fail` and `wait`, and what an error names: the missing intervals of each
symbol, the cause, the command that repairs. Must not know: how gaps are found, Kafka, the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seamline.schemas.times import format_time
from seamline.streams.kernel.seam import GAPS_SHOWN, OnGap, Part, Request
from seamline.streams.kernel.seam_events import NO_TRADES, Gap, SeamBroken


def blocking(request: Request, parts: Iterable[Part]) -> list[Gap]:
    """Gaps that keep a stream from beginning unless flags were asked for: all but `no_trades`."""
    if request.on_gap is OnGap.FLAG:
        return []
    return [gap for part in parts for gap in part.gaps if gap.cause != NO_TRADES]


def gap_error(
    request: Request, gaps: Sequence[Gap], *, waited_s: float | None = None
) -> SeamBroken:
    """The error for gaps that stand in the way; names the repair of the first symbol."""
    symbol = gaps[0].symbol
    own = [gap for gap in gaps if gap.symbol == symbol]
    shown = ", ".join(
        f"{gap.symbol} {format_time(gap.start_ns)} to {format_time(gap.end_ns)} "
        f"({gap.bars} bars, {gap.cause})"
        for gap in gaps[:GAPS_SHOWN]
    )
    more = "" if len(gaps) <= GAPS_SHOWN else f" and {len(gaps) - GAPS_SHOWN} more"
    waited = "" if waited_s is None else f" after waiting {waited_s:g} s"
    return SeamBroken(
        f"{sum(gap.bars for gap in gaps)} bars are missing{waited}: {shown}{more}",
        cause=gaps[0].cause,
        missing=gaps,
        command=request.repair(symbol, own[0].start_ns, own[-1].end_ns),
        symbol=symbol,
    )


def unexplained_error(request: Request, parts: Iterable[Part]) -> SeamBroken | None:
    """The error for cells below the frontier that are neither bar nor ledger entry."""
    gaps = [gap for part in parts for gap in part.unexplained]
    if not gaps:
        return None
    error = gap_error(request, gaps)
    return SeamBroken(
        f"the gap ledger does not know what is missing from storage: {error.message}",
        cause="not_in_ledger",
        missing=gaps,
        command=error.command,
        symbol=gaps[0].symbol,
    )
