"""Which sources and feeds a preset may name.

Decides: the built-in names, what each can serve, and which of them exist only as a name so far.
Users add names by entry points of the group `seamline.connectors`. Invariant: a name that is known
but not built says so when it is run, not when it is read. Must not know: how a connector works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Literal

from seamline.schemas.errors import UsageError

ENTRY_POINTS: Final = "seamline.connectors"
MINUTE_NS: Final = 60_000_000_000

Use = Literal["backfill", "live"]


@dataclass(frozen=True, slots=True)
class Connector:
    """A name that a preset may use. `interval_ns` is set when it delivers bars of that interval
    only; `kinds` and `uses` are None for a user's own, which nothing is known of."""

    name: str
    uses: tuple[Use, ...] | None = None
    kinds: tuple[str, ...] | None = None
    interval_ns: int | None = None
    available: bool = True


BUILT_IN: Final[tuple[Connector, ...]] = (
    Connector("binance.rest", ("backfill",), ("ohlcv",)),
    Connector("ccxt:binance", ("backfill",), ("ohlcv",)),
    Connector("binance.ws.kline.1m", ("live",), ("ohlcv",), MINUTE_NS),
    Connector("binance.ws.trade", ("live",), ("trades",)),
    Connector("polygon.rest", ("backfill",), ("ohlcv",), available=False),
    Connector("polygon.ws.minute", ("live",), ("ohlcv",), MINUTE_NS, available=False),
    Connector("polygon.ws.trade", ("live",), ("trades",), available=False),
)


def connectors() -> Mapping[str, Connector]:
    """The built-in names and those of installed packages, which may not replace a built-in one."""
    own = {found.name: Connector(found.name) for found in entry_points(group=ENTRY_POINTS)}
    return own | {connector.name: connector for connector in BUILT_IN}


def require_available(name: str, *, parameter: str) -> Connector:
    """The connector of this name, to run it now. Raises UsageError for one not built yet."""
    found = connectors().get(name)
    if found is None:
        raise UsageError(
            "no such connector", parameter=parameter, value=name, fix=f"One of {known()}"
        )
    if not found.available:
        raise UsageError(
            "this connector comes with a later release; a preset may name it already",
            parameter=parameter,
            value=name,
            fix=f"To run now: {known(available=True)}",
        )
    return found


def known(use: Use | None = None, *, available: bool = False) -> str:
    """The names for an error text, only those that serve `use` or that can be run."""
    return ", ".join(
        connector.name
        for connector in connectors().values()
        if (use is None or connector.uses is None or use in connector.uses)
        and (connector.available or not available)
    )
