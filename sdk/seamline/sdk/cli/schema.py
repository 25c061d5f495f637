"""`seamline schema list | bundle | register | check`: the subjects of presets and their schemas.

Decides: the columns shown. Invariant: only `register` changes anything. Must not know: the rules of
compatibility, the API of a registry.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from seamline.sdk.cli import schema_audit, schema_mode
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_rows

LIST_COLUMNS = ("subject", "record", "version", "fingerprint", "strict_level")

SomePresets = Annotated[
    list[str] | None, typer.Argument(help="ids of presets; default: all", metavar="[PRESET]...")
]

schema_app = typer.Typer(name="schema", help="Schemas and their modes.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(schema_app, name="schema")
    schema_audit.register(schema_app)
    schema_mode.register(schema_app)


@schema_app.command("list")
@answers
def list_schemas(presets: SomePresets = None, output: FormatOption = Format.TABLE) -> None:
    """Every subject of the presets, and the approved record that it holds."""
    from seamline.connectors.registry.registration import subjects_of
    from seamline.presets import loader
    from seamline.schemas.contract import SCHEMAS

    every = loader.load(None, os.environ)
    chosen = [loader.get(every, name) for name in presets] if presets else list(every.values())
    rows = [
        {
            "subject": subject.name,
            "record": name,
            "version": SCHEMAS[name].version,
            "fingerprint": SCHEMAS[name].fingerprint[:16],
            "strict_level": subject.strict_level,
        }
        for preset in chosen
        for subject in subjects_of(preset)
        for name in subject.schemas
    ]
    emit_rows(rows, LIST_COLUMNS, output, title="Subjects")
