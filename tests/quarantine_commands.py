"""`seamline quarantine` as a person runs it, for tests. Decides: nothing of what it answers."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from preset_making import FreshPreset
from seamline.sdk.cli.main import app


def run(fresh: FreshPreset, *arguments: str, status: int = 0) -> str:
    """What it prints, where it ends with this status."""
    done = CliRunner().invoke(app, ["quarantine", *arguments], env=fresh.environment())
    assert done.exit_code == status, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done.stdout


def top(fresh: FreshPreset, *arguments: str) -> dict[str, int]:
    """Rule -> open records."""
    found = json.loads(run(fresh, "top", fresh.preset.id, "-o", "json", *arguments))
    return {row["rule"]: row["records"] for row in found}
