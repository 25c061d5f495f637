"""What a table shows of an answer, and what only `-o json` and csv have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seamline.sdk.cli.output import Format, emit_object, emit_rows

DIGEST = "0123456789abcdef" * 4
ROWS: list[dict[str, Any]] = [
    {"name": "a", "digest": DIGEST, "note": None, "left": ""},
    {"name": "b", "digest": DIGEST[::-1], "note": 0, "left": None},
]
COLUMNS = ("name", "digest", "note", "left")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


def test_a_table_shows_the_beginning_of_digests_and_no_column_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit_rows(ROWS, COLUMNS, Format.TABLE, title=f"Of {DIGEST}")
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == f"Of {DIGEST}"
    table = shown.partition("\n")[2]
    assert DIGEST[:13] not in table and DIGEST[::-1][:13] not in table
    assert DIGEST[:12] in table and DIGEST[::-1][:12] in table
    assert "note" in shown and "left" not in shown
    emit_rows([], COLUMNS, Format.TABLE)
    assert "left" in capsys.readouterr().out
    emit_object({"found": {"digest": DIGEST}, "longer": DIGEST + "0"}, Format.TABLE)
    shown = capsys.readouterr().out
    assert f'"{DIGEST[:12]}"' in shown and DIGEST + "0" in shown


def test_json_and_csv_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    emit_rows(ROWS, COLUMNS, Format.JSON)
    assert json.loads(capsys.readouterr().out) == ROWS
    emit_rows(ROWS, COLUMNS, Format.CSV)
    assert capsys.readouterr().out.splitlines() == [
        "name,digest,note,left",
        f"a,{DIGEST},,",
        f"b,{DIGEST[::-1]},0,",
    ]
