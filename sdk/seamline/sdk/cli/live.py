"""`seamline live PRESET`: a venue's live feed onto the plane until it is told to stop.

Decides: how options become settings, and how the connector ends: SIGTERM and Ctrl-C end it with
status 0 after everything sent was acknowledged. Invariant: the answer, its counters, comes once, at
the end; what happens meanwhile is said on stderr. Must not know: frames, holes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.schemas.times import DAY_NS, format_time, parse_duration
from seamline.sdk.cli.backfill import symbols_of
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.live import LiveConnector, LiveSettings

REST_VARIABLE = "SEAMLINE_BINANCE_REST_URL"
WS_VARIABLE = "SEAMLINE_BINANCE_WS_URL"
SOCKET_LIFE_MIN_NS = 60_000_000_000


def register(app: typer.Typer) -> None:
    app.command("live")(live)


@answers
def live(
    preset: Annotated[str, typer.Argument(help="id of a preset", metavar="PRESET")],
    symbols: Annotated[str, typer.Option(help="BASE/QUOTE, comma separated")],
    rest_url: Annotated[
        str, typer.Option(help=f"the venue's REST (default: {REST_VARIABLE}, or Binance itself)")
    ] = "",
    ws_url: Annotated[
        str, typer.Option(help=f"the venue's WebSocket (default: {WS_VARIABLE}, or Binance itself)")
    ] = "",
    resume_limit: Annotated[
        str, typer.Option(help="how far back a start fills over REST: 1d, 6h")
    ] = "1d",
    previews: Annotated[
        bool, typer.Option("--previews", help="send open bars too, at most one a second a symbol")
    ] = False,
    socket_life: Annotated[
        str, typer.Option(help="the venue's time after which a socket is relieved by a new one")
    ] = "1430m",
    settled_batch: Annotated[
        int, typer.Option(help="bars for which settled history is asked again at once")
    ] = 60,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="answer Prometheus there; 0 takes any")
    ] = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Publish closed bars (or trades) as they come, fill every hole, send heartbeats.

    Runs until SIGTERM or Ctrl-C. A new start goes on from what landed last.
    """
    from seamline.connectors.governance.follow import mode_now
    from seamline.connectors.live import LiveConnector, stream_of
    from seamline.connectors.registry.client import RemoteSchemaRegistryClient
    from seamline.connectors.registry.registration import ensure_registered
    from seamline.connectors.venues.binance import BinanceEndpoints
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.schemas.modes import default_mode

    if output is Format.CSV:
        raise UsageError(
            "csv is for rows", parameter="output", value="csv", fix="Use table or json"
        )
    chosen = loader.get(loader.load(None, os.environ), preset)
    stream_of(chosen)
    named = symbols_of(symbols)
    settings = settings_of(resume_limit, socket_life, settled_batch, previews)
    given = {REST_VARIABLE: rest_url, WS_VARIABLE: ws_url}
    env = {**os.environ, **{name: url for name, url in given.items() if url}}
    endpoints = BinanceEndpoints.from_environment(env)
    world = World.resolve(os.environ, directory)
    registry = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        mode_of = mode_now(world.cluster, default_mode(os.environ))
        ids = ensure_registered(registry, chosen, mode_of)
    finally:
        registry.close()
    connector = LiveConnector(world.cluster, chosen, ids, endpoints, settings, notice=say)
    if metrics_port is not None:
        from seamline.connectors.metrics import LiveMetrics, serve

        port = serve(LiveMetrics(chosen.id, connector.counters, connector.gauges), metrics_port)
        say(f"metrics at port {port}")
    asyncio.run(_run(connector, named, chosen.id))
    emit_object(_answer(connector, chosen.id, named), output, title="Live")


def settings_of(
    resume_limit: str, socket_life: str, settled_batch: int, previews: bool
) -> LiveSettings:
    """Raises UsageError for a text that is no duration, and for one that leaves no time."""
    from seamline.connectors.live import LiveSettings
    from seamline.connectors.live_socket import LinkSettings
    from seamline.streams.kernel.settled_check import SettledRules
    from seamline.streams.kernel.socket_rota import RotaRules

    life_ns = parse_duration(socket_life, parameter="socket_life")
    if not SOCKET_LIFE_MIN_NS <= life_ns <= DAY_NS:
        raise UsageError(
            "outside one minute to one day",
            parameter="socket_life",
            value=socket_life,
            fix="The venue cuts a socket after a day: give less, 1430m is the default",
        )
    # Lives differ by a little, so that many connectors do not connect at once.
    rota = RotaRules(life_ns=life_ns, jitter_ns=min(RotaRules().jitter_ns, life_ns // 10))
    return LiveSettings(
        resume_limit_ns=parse_duration(resume_limit, parameter="resume_limit"),
        previews=previews,
        link=LinkSettings(rota=rota),
        settled=SettledRules(batch_bars=settled_batch),
    )


def say(text: str) -> None:
    notices.print(text, markup=False, soft_wrap=True)


async def _run(connector: LiveConnector, symbols: tuple[str, ...], preset_id: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def tell() -> None:
        await connector.ready.wait()
        say(f"{preset_id}: {len(symbols)} symbols, Ctrl-C ends it")

    telling = asyncio.create_task(tell())
    try:
        await connector.run(symbols, stop)
    finally:
        telling.cancel()


def _answer(connector: LiveConnector, preset_id: str, symbols: tuple[str, ...]) -> dict[str, Any]:
    gauges = connector.gauges()
    watermark_ns = gauges.pop("watermark_ns", 0)
    return {
        "preset": preset_id,
        "symbols": list(symbols),
        "watermark": format_time(watermark_ns) if watermark_ns else None,
        **connector.counters(),
        **gauges,
    }
