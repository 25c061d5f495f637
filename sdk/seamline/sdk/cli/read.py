"""`seamline read`: a stitched stream on stdout.

Decides: how an event looks as a line. Invariants: `json` is one object a line, `csv` one row an
event with the same columns, `table` for eyes; the certificate is among the lines of `json` and
`table`, with `csv` it goes to stderr; a reader that leaves (`| head`) and Ctrl-C end it quietly.
A position is saved only after what it counts was flushed to stdout: after each event behind the
history, within SAVE_S in it. So a killed command that is run again leaves nothing out; it repeats
at most what it printed since it saved.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.times import format_time
from seamline.sdk.cli.output import Format, FormatOption, answers, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.sdk import SeamStream
    from seamline.streams.kernel.seam_events import Bar, Event

INTERRUPTED = 130
SAVE_S = 1.0
HEADS = ("event", "symbol", "open time", "open", "high", "low", "close", "volume", "source", "rev")
COLUMNS = (
    *("event", "symbol", "open_time", "open", "high", "low", "close", "volume"),
    *("quote_volume", "trades", "first_trade_id", "last_trade_id"),
    *("source", "revision", "flags", "known_time", "provisional"),
    *("end", "bars", "cause"),
)


def register(app: typer.Typer) -> None:
    app.command("read")(read)


@answers
def read(
    preset: Annotated[str, typer.Argument(help="preset, see `seamline presets list`")],
    symbols: Annotated[str, typer.Option(help="BASE/QUOTE, comma separated")],
    start: Annotated[str, typer.Option(help="-2d, or 2026-01-31T00:00:00Z")],
    end: Annotated[str | None, typer.Option(help="exclusive; the stream then ends there")] = None,
    follow: Annotated[bool, typer.Option(help="go on with live bars after the seam")] = False,
    on_gap: Annotated[str, typer.Option(help="fail, wait or flag")] = "fail",
    gap_timeout: Annotated[str, typer.Option(help="how long `wait` waits")] = "60s",
    certificate: Annotated[
        Path | None, typer.Option(help="write the certificate of the seam to this file")
    ] = None,
    position: Annotated[
        Path | None,
        typer.Option(help="save in this file what was printed; go on from it when it exists"),
    ] = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Bars from START on, history and live as one proven stream; without --follow the history."""
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.sdk import position_file, stitch

    named = [name for name in (part.strip() for part in symbols.split(",")) if name]
    presets = loader.load(None, os.environ)
    loader.get(presets, preset)  # a wrong name is told before a missing world
    resume = None if position is None else position_file.load(position)
    world = World.resolve(os.environ, directory)
    try:
        with stitch(
            preset,
            named,
            start,
            end=end,
            follow=follow,
            on_gap=on_gap,
            gap_timeout=gap_timeout,
            resume=resume,
            world=world,
            presets=presets,
        ) as stream:
            _show(stream, output, certificate, position, heads=resume is None)
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _show(
    stream: SeamStream,
    output: Format,
    certificate: Path | None,
    position: Path | None,
    *,
    heads: bool,
) -> None:
    from seamline.sdk import CaughtUp, position_file
    from seamline.sdk.certificate import save

    show: Callable[[Event], None] | None = None
    live, shown, saved = False, True, time.monotonic()
    try:
        for event in stream:
            shown = False
            if show is None:
                show = _writer(output, heads)  # a refusal leaves stdout empty, without heads
            show(event)
            shown = True
            if isinstance(event, CaughtUp):
                live = True
                if certificate is not None:
                    save(event.certificate, certificate)
            if live or (position is not None and time.monotonic() - saved >= SAVE_S):
                sys.stdout.flush()
                if position is not None and stream.position is not None:
                    position_file.save(stream.position, position)
                    saved = time.monotonic()
    finally:
        # Ctrl-C may have come between an event and its line: what was saved before stands.
        if shown and position is not None and stream.position is not None:
            sys.stdout.flush()
            position_file.save(stream.position, position)
    sys.stdout.flush()


def _writer(output: Format, heads: bool) -> Callable[[Event], None]:
    if output is Format.JSON:
        return lambda event: print(json.dumps(as_object(event), ensure_ascii=False))
    if output is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if heads:  # what goes on is appended to what there is
            writer.writerow(COLUMNS)
        return lambda event: _csv_row(writer, event)
    return _table_writer(heads)


def as_object(event: Event) -> dict[str, Any]:
    """An event as plain JSON; `event` names its kind."""
    from seamline.sdk import CaughtUp, Gap, LateBar, Revision

    if isinstance(event, CaughtUp):
        return {"event": "caught_up", "certificate": event.certificate.as_dict()}
    if isinstance(event, Gap):
        return {"event": "gap", **event.fields(), "provisional": event.provisional}
    if isinstance(event, LateBar):
        return {"event": "late_bar", **_bar(event.bar)}
    if isinstance(event, Revision):
        previous = None if event.previous is None else _bar(event.previous)
        return {
            "event": "completion" if event.completed else "revision",
            **_bar(event.bar),
            "previous": previous,
        }
    return {"event": "bar", **_bar(event)}


def _bar(bar: Bar) -> dict[str, Any]:
    fields = bar._asdict()
    open_time, known_time = fields.pop("open_time_ns"), fields.pop("known_time_ns")
    return {
        "symbol": fields.pop("symbol"),
        "open_time": format_time(open_time),
        **fields,
        "known_time": format_time(known_time),
    }


def _csv_row(writer: Any, event: Event) -> None:
    fields = as_object(event)
    if fields["event"] == "caught_up":
        notices.print(_summary(event), markup=False)
        return
    if fields["event"] == "gap":
        fields["open_time"] = fields.pop("start")
    writer.writerow([fields.get(name) for name in COLUMNS])


def _summary(event: Event) -> str:
    from seamline.sdk import CaughtUp

    assert isinstance(event, CaughtUp)
    return event.certificate.summary()


def _table_writer(heads: bool) -> Callable[[Event], None]:
    """Lines of fixed width, so that a stream can be watched."""
    form = "{:<10} {:<16} {:<20} {:>14} {:>14} {:>14} {:>14} {:>14} {:<12} {:>3}"
    if heads:
        print(form.format(*HEADS))

    def show(event: Event) -> None:
        fields = as_object(event)
        kind = fields["event"]
        if kind == "caught_up":
            print(_summary(event))
        elif kind == "gap":
            open_gap = ", not sealed yet" if fields["provisional"] else ""
            print(
                f"{kind:<10} {fields['symbol']:<16} {fields['start']:<20} to {fields['end']}: "
                f"{fields['bars']} bars, {fields['cause']}{open_gap}"
            )
        else:
            prices = (f"{fields[name]:.10g}" for name in ("open", "high", "low", "close", "volume"))
            print(
                form.format(
                    kind,
                    fields["symbol"],
                    fields["open_time"],
                    *prices,
                    fields["source"],
                    fields["revision"],
                )
            )

    return show
