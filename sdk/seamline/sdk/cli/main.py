"""The one command `seamline`: puts the sub-commands together and knows nothing of what they do."""

from __future__ import annotations

import typer

from seamline.connectors import jit_cache
from seamline.sdk.cli import (
    backfill,
    demo,
    explain,
    live,
    presets,
    quarantine,
    read,
    schema,
    seam,
    simulate,
    stack,
    topics,
    venue_sim,
    worker,
)

app = typer.Typer(
    name="seamline",
    help="An event-streaming data plane for market data: history and live in one proven stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def seamline() -> None:
    """A callback keeps `seamline NAME` a name when there is only one command."""


stack.register(app)
presets.register(app)
topics.register(app)
venue_sim.register(app)
worker.register(app)
live.register(app)
backfill.register(app)
demo.register(app)
read.register(app)
seam.register(app)
explain.register(app)
simulate.register(app)
schema.register(app)
quarantine.register(app)


def run() -> None:
    jit_cache.use()  # before a command imports numba
    app()
