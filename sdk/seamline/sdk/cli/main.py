"""The one command `seamline`: puts the sub-commands together and knows nothing of what they do."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="seamline",
    help="An event-streaming data plane for market data: history and live in one proven stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run() -> None:
    app()
