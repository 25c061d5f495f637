"""`seamline simulate`: the whole plane under one seed, as a person reads it.

Decides: what of a run is shown, and the exit status: 0 when every invariant holds, 1 with the
minimal trace of the first failing seed otherwise. Invariant: the same seed shows the same. Must not
know: what happens in a run.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.runs import Run

SEEDS_MAX = 1_000_000
EVENT_COLUMNS = ("time", "minute", "who", "what")
FAULT_COLUMNS = ("fault", "times")
CHECK_COLUMNS = ("invariant", "checks")
GAP_COLUMNS = ("symbol", "start", "end", "minute", "bars", "cause")


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate)


@answers
def simulate(
    seed: Annotated[int, typer.Option("--seed", help="decides everything that happens")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="how many, from the seed on")] = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Venue, connector, broker, workers and readers in one process, with faults, under one seed."""
    from seamline.streams.kernel.simulation.runs import run_seed
    from seamline.streams.kernel.simulation.shrink import shrink
    from seamline.streams.kernel.simulation.story import explain

    if not 1 <= seeds <= SEEDS_MAX:
        raise UsageError(f"outside 1..{SEEDS_MAX:,}", parameter="seeds", value=seeds)
    if output is Format.CSV:
        raise UsageError("csv is for rows", parameter="output", value="csv")
    faults, checks = Counter[str](), Counter[str]()
    failed: Run | None = None
    run = run_seed(seed)
    for number in range(seed, seed + seeds):
        run = run if number == seed else run_seed(number)
        faults.update(run.world.faults)
        checks.update(run.checked)
        if run.failure is not None:
            failed = shrink(run)
            break
    shown = seeds == 1
    if output is Format.JSON:
        emit_object(_answer(seed, seeds, run, failed, faults, checks, shown=shown), output)
    else:
        if shown:
            _show_hour(run)
        _show_counts(faults, checks)
        sys.stdout.write(f"{_verdict(seeds, failed)}\n")
        if failed is not None:
            sys.stdout.write(f"{explain(failed)}\n")
    if failed is not None:
        raise typer.Exit(1)


def _verdict(seeds: int, failed: Run | None) -> str:
    if failed is not None:
        return f"seed {failed.world.settings.seed}: an invariant does not hold"
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}: every invariant holds"


def _settings(run: Run) -> dict[str, Any]:
    settings = run.world.settings
    return {
        "seed": settings.seed,
        "minutes": settings.minutes,
        "acts": len(run.acts),
        "symbols": list(settings.symbols),
        "partitions": settings.partitions,
        "workers": settings.workers,
        "readers": settings.readers,
        "stabilization_bars": settings.stabilization_bars,
        "derived_minutes": list(settings.ratios),
        "off_grid": settings.off_grid,
        "mode": settings.mode,
    }


def _show_hour(run: Run) -> None:
    from seamline.streams.kernel.simulation.story import chart, gaps, hour_of

    emit_object(_settings(run), Format.TABLE, title="The world")
    sys.stdout.write("\n" + "\n".join(chart(run)) + "\n\n")
    rows = [dict(zip(EVENT_COLUMNS, row, strict=True)) for row in hour_of(run)]
    emit_rows(rows, EVENT_COLUMNS, Format.TABLE, title="What happened")
    found = gaps(run)
    if found:
        emit_rows(found, GAP_COLUMNS, Format.TABLE, title="Gap ledger")


def _show_counts(faults: Counter[str], checks: Counter[str]) -> None:
    from seamline.streams.kernel.simulation.checks import INVARIANTS

    found = [{"fault": name, "times": times} for name, times in sorted(faults.items())]
    emit_rows(found, FAULT_COLUMNS, Format.TABLE, title="Faults that took effect")
    held = [{"invariant": text, "checks": checks[name]} for name, text in INVARIANTS.items()]
    emit_rows(held, CHECK_COLUMNS, Format.TABLE, title="Invariants")


def _answer(
    seed: int,
    seeds: int,
    run: Run,
    failed: Run | None,
    faults: Counter[str],
    checks: Counter[str],
    *,
    shown: bool,
) -> dict[str, Any]:
    from seamline.streams.kernel.simulation.minutes import LEGEND
    from seamline.streams.kernel.simulation.story import explain, gaps, hour_of, minutes_of

    answer: dict[str, Any] = {
        "ok": failed is None,
        "seed": seed,
        "seeds": seeds,
        "faults": dict(sorted(faults.items())),
        "checks": dict(sorted(checks.items())),
        "failed_seed": None if failed is None else failed.world.settings.seed,
        "invariant": None if failed is None or failed.failure is None else failed.failure.invariant,
        "trace": None if failed is None else explain(failed),
    }
    if shown:
        answer |= {
            "world": _settings(run),
            "minutes": minutes_of(run),
            "legend": LEGEND,
            "gaps": gaps(run),
            "hour": [dict(zip(EVENT_COLUMNS, row, strict=True)) for row in hour_of(run)],
            "digest": run.world.digest(),
        }
    return answer
