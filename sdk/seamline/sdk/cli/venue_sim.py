"""`seamline venue-sim`: run the venue simulator until it is told to stop.

Decides: how texts become the simulator's settings, and how the server ends: SIGTERM and Ctrl-C end
it with status 0. Invariant: stdout gets one answer, when the server is ready, and nothing after it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seamline.schemas.errors import UsageError
from seamline.schemas.times import format_time, parse_duration, parse_time
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object

if TYPE_CHECKING:
    from seamline.connectors.venues.simulator import SimulatorConfig

DEFAULT_SYMBOLS = "BTC/USDT,ETH/USDT,SOL/USDT"
DataOption = Annotated[
    list[str] | None,
    typer.Option(help="SYMBOL=FILE (or FILE for one symbol): .csv or .parquet instead of a seed"),
]
FaultsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="KIND:key=value,key=value, such as lose-frames:p=0.01 or outage:from=+5m,to=+9m; "
        "several by ';' or by repeating it; kinds and keys are above"
    ),
]


def register(app: typer.Typer) -> None:
    app.command("venue-sim")(venue_sim)


@answers
def venue_sim(
    symbols: Annotated[
        str, typer.Option(help=f"BASE/QUOTE, comma separated  [default: {DEFAULT_SYMBOLS}]")
    ] = "",
    seed: Annotated[int, typer.Option(help="seed of the market and of the faults")] = 0,
    speed: Annotated[float, typer.Option(help="simulated seconds per real second")] = 1.0,
    start: Annotated[
        str, typer.Option(help="simulated time at the start: now, -1d, 2026-01-31T00:00:00Z")
    ] = "",
    until: Annotated[str, typer.Option(help="simulated time at which the clock stops")] = "",
    data: DataOption = None,
    faults: FaultsOption = None,
    empty_share: Annotated[
        float, typer.Option(help="share of seeded minutes without a trade (0 to 0.9)")
    ] = 0.0,
    weight_limit: Annotated[int, typer.Option(help="REST weight per real minute")] = 6_000,
    session: Annotated[
        str, typer.Option(help="simulated time after which a socket is cut")
    ] = "24h",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free port")] = 0,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Speak Binance's public spot protocol on a local port, at any speed, from a seed or a file.

    Prints its URLs when it is ready and runs until SIGTERM or Ctrl-C. Counters are at /sim/status.
    Without --start, a seeded market starts now at speed 1 and a day ago at any other speed; a file
    starts at its first bar. The simulated clock never passes the real time.

    Faults of frames: lose-frames, duplicate-frames, reorder-frames, delay-frames (by=2s),
    malformed-frames, oversized-frames, wrong-symbol (as=unlisted, listed or inner), drop-socket.

    Faults of the venue: shutdown (at=, notice=10m), outage (from=, to=, only=rest or ws), halt
    (from=, to=), lose-history, correct-klines (after=5m), slow-rest (by=3s), limit-rest
    (status=429 or 418, retry_after=2s), clock (by=-90s).

    Which ones: p=0.05 by chance, every=40 by count, at=+10m|+11m by minute, from=+5m,to=+9m as a
    span, symbol=BTC/USDT, only=closed or open. Times and durations are simulated; by= of slow-rest
    and retry_after= are real. The same seed and text cause the same faults.
    """
    from seamline.connectors.venues.simulated_market import MarketSettings
    from seamline.connectors.venues.simulator import SimulatorConfig
    from seamline.connectors.venues.venue_faults import parse_faults
    from seamline.connectors.venues.weight_limit import WeightRules

    if fmt is Format.CSV:
        raise UsageError(
            "csv is for rows", parameter="output", value="csv", fix="Use table or json"
        )
    named = tuple(filter(None, (part.strip() for part in symbols.split(","))))
    files = _files(data or [], named)
    now_ns = time.time_ns()
    start_ns = _start(start, files, speed, now_ns)
    config = SimulatorConfig(
        start_ns=start_ns,
        symbols=named or (() if files else tuple(DEFAULT_SYMBOLS.split(","))),
        speed=speed,
        until_ns=parse_time(until, now_ns=now_ns, parameter="until") if until else None,
        market=MarketSettings(seed=seed, empty_share=empty_share),
        data=files,
        faults=parse_faults(";".join(faults or []), start_ns=start_ns),
        weights=WeightRules(limit=weight_limit),
        session_ns=parse_duration(session, parameter="session"),
        host=host,
        port=port,
    )
    asyncio.run(_serve(config, fmt))


def _files(data: Sequence[str], symbols: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for text in data:
        symbol, equals, path = text.rpartition("=")
        if not equals:
            if len(symbols) != 1:
                raise UsageError(
                    "a file without its symbol",
                    parameter="data",
                    value=text,
                    fix=f"Write --data BTC/USD={text}, or name one symbol with --symbols",
                )
            symbol = symbols[0]
        if symbol in files:
            raise UsageError("two files for one symbol", parameter="data", value=text)
        files[symbol] = Path(path)
    return files


def _start(text: str, files: dict[str, Path], speed: float, now_ns: int) -> int:
    if text:
        return parse_time(text, now_ns=now_ns, parameter="start")
    if files:
        from seamline.connectors.venues.file_market import first_open_ns

        return min(first_open_ns(path) for path in files.values())
    return now_ns if speed == 1.0 else parse_time("-1d", now_ns=now_ns, parameter="start")


async def _serve(config: SimulatorConfig, fmt: Format) -> None:
    from seamline.connectors.venues.simulator import VenueSimulator

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with VenueSimulator(config) as venue:
        ready = {
            "rest_url": venue.rest_url,
            "ws_url": venue.ws_url,
            "status_url": f"{venue.rest_url}/sim/status",
            "symbols": [listing.symbol for listing in venue.market.listings.values()],
            "start": format_time(config.start_ns),
            "speed": config.speed,
        }
        emit_object(ready, fmt, title="venue simulator, Ctrl-C ends it")
        sys.stdout.flush()
        await venue.serve_until(stop)
