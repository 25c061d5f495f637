"""`seamline demo`: the whole plane once, and what it proved.

Decides: how the outcome is shown, and the exit status: 0 only when continuity is proved.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.sdk.cli.output import Format, answers, emit_object, emit_rows, notices

if TYPE_CHECKING:
    from seamline.sdk.demo.story import Outcome

COLUMNS = ("symbol", "history", "seam", "live", "late", "newest")
SHOWN_MAX = 5


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


@answers
def demo(
    data: Annotated[
        Path | None, typer.Option(help="CSV or parquet of real bars instead of the seed")
    ] = None,
    symbol: Annotated[
        str | None, typer.Option(help="BASE/QUOTE of the file, where its name does not tell it")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the simulated market")] = 7,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="keep stack, logs and certificate there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Run the whole plane on a real broker and a real registry, and end with a certificate.

    Two days of history and a live feed for three symbols; the worker is killed and started again
    while a reader follows. Exit status 0 only when the certificate proves continuity.
    """
    from seamline.sdk.demo.story import file_plan, seed_plan, tell

    began = time.monotonic()

    def say(text: str) -> None:
        notices.print(f"[dim]{time.monotonic() - began:5.1f} s[/dim]  ", end="")
        notices.print(text, markup=False, soft_wrap=True)

    plan = seed_plan(time.time_ns(), seed) if data is None else file_plan(data, symbol)
    outcome = tell(plan, say, directory)
    if as_json:
        emit_object(facts(outcome), Format.JSON)
    else:
        show(outcome)
    if not outcome.ok:
        raise typer.Exit(1)


def facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as one JSON-able object."""
    kept, certificate = outcome.followed, outcome.certificate
    return {
        "ok": outcome.ok,
        "bars_history": sum(kept.history.values()),
        "bars_live": sum(kept.live.values()),
        "bars": len(kept.bars),
        "bars_late": sum(kept.late.values()),
        "revisions": kept.revisions,
        "missing_bars": certificate.missing_bars,
        "gaps": certificate.gaps + len(outcome.missing),
        "duplicates": kept.duplicates + outcome.reread.duplicates,
        "bars_invented": len(outcome.invented),
        "bars_different": len(outcome.different),
        "worker_killed_pid": outcome.killed_pid,
        "verified": outcome.verdict,
        "elapsed_s": round(outcome.elapsed_s, 1),
        "certificate": certificate.as_dict(),
    }


def show(outcome: Outcome) -> None:
    """A table of both sides of the seam, what was compared, and the certificate."""
    from seamline.schemas.times import format_time

    kept, certificate = outcome.followed, outcome.certificate
    first = {} if kept.certificate is None else {e["symbol"]: e for e in kept.certificate.symbols}
    rows = [
        {
            "symbol": symbol,
            "history": kept.history.get(symbol, 0),
            "seam": _minute(first.get(symbol, {}).get("frontier")),
            "live": kept.live.get(symbol, 0),
            "late": kept.late.get(symbol, 0),
            "newest": _minute(format_time(kept.newest_ns(symbol))),
        }
        for symbol in outcome.plan.symbols
    ]
    emit_rows(rows, COLUMNS, Format.TABLE, title="Bars that the reader was given")
    sys.stdout.write(
        f"\nCompared with the venue: {len(kept.bars)} bars, {len(outcome.missing)} missing, "
        f"{len(outcome.invented)} invented, {len(outcome.different)} different, "
        f"{kept.duplicates + outcome.reread.duplicates} duplicates\n\n"
    )
    for name in ("missing", "invented", "different"):
        for symbol, time_ns in getattr(outcome, name)[:SHOWN_MAX]:
            sys.stdout.write(f"  {name}: {symbol} {format_time(time_ns)}\n")
    sys.stdout.write(certificate.summary() + "\n")
    sys.stdout.write(f"recomputed from Kafka alone: {outcome.verdict}\n")
    sys.stdout.write(f"{'proved' if outcome.ok else 'NOT proved'} in {outcome.elapsed_s:.1f} s\n")


def _minute(time: str | None) -> str | None:
    """A time without its seconds, so that the table fits a terminal."""
    return None if time is None else f"{time[:16]}Z"
