"""`seamline schema list` and `bundle`, which need no world: what a person gives can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seamline.schemas.bundle import approved_bundle
from seamline.schemas.contract import BUNDLE_SHA256, SCHEMAS
from seamline.sdk.cli.main import app


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["schema", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_approved_bundle_is_shown_written_and_read_again(tmp_path: Path) -> None:
    status, out, _ = run("bundle", "-o", "json", "--export", str(tmp_path / "new"))
    whole = json.loads(out)
    assert (status, whole["sha256"], whole["approved"]) == (0, BUNDLE_SHA256, True)
    assert len(whole["schemas"]) == len(approved_bundle().schemas)
    assert json.loads(run("bundle", "-o", "json", "--dir", str(tmp_path / "new"))[1]) == whole
    assert BUNDLE_SHA256 in run("bundle")[1]
    status, out, error = run("bundle", "--export", str(tmp_path / "new"))
    assert (status, "is not empty" in error) == (2, True)


def test_a_proposed_version_is_judged(tmp_path: Path) -> None:
    run("bundle", "--export", str(tmp_path))
    (tmp_path / ".git").mkdir()
    trade = SCHEMAS["trade"]
    schema = json.loads(trade.text)
    schema["fields"].append({"name": "more", "type": "long"})
    file = tmp_path / f"trade.v{trade.version + 1}.avsc"
    file.write_text(json.dumps(schema))
    status, out, _ = run("bundle", "-o", "json", "--dir", str(tmp_path))
    (row,) = [r for r in json.loads(out)["schemas"] if not r["approved"]]
    assert (status, row["compatible"], row["breaking"]) == (1, False, "more")
    schema["fields"][-1]["default"] = 0
    file.write_text(json.dumps(schema))
    status, out, _ = run("bundle", "-o", "json", "--dir", str(tmp_path))
    assert (status, json.loads(out)["approved"]) == (0, False)


@pytest.mark.parametrize(
    ("name", "content", "status", "says"),
    [
        (None, None, 2, "cannot be read: No such file"),
        ("trade.v1.avcs", b"{}", 1, "its name is not <record>.v<version>.avsc"),
        ("trade.v2.avsc", b"{", 1, "trade.v2.avsc: not JSON"),
        ("trade.v2.avsc", b"\xff", 1, "trade.v2.avsc: not UTF-8"),
        ("trade.v2.avsc", b"x" * (1 << 21), 1, "at most 1048576"),
    ],
)
def test_a_directory_that_is_wrong_is_refused(
    tmp_path: Path, name: str | None, content: bytes | None, status: int, says: str
) -> None:
    place = tmp_path / "bundle"
    if name is not None and content is not None:
        run("bundle", "--export", str(place))
        (place / name).write_bytes(content)
    found, out, error = run("bundle", "--dir", str(place))
    assert (found, out) == (status, "")
    assert says in error


def test_a_directory_inside_a_bundle_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    status, _, error = run("bundle", "--dir", str(tmp_path))
    assert (status, "old" in error and "Is a directory" in error) == (2, True)


def test_every_subject_is_listed() -> None:
    status, out, _ = run("list", "-o", "json")
    rows = json.loads(out)
    assert status == 0
    assert {"seamline.ohlcv.binance.spot.1m.live-value"} <= {row["subject"] for row in rows}
    assert {row["version"] for row in rows if row["record"] == "bar"} == {SCHEMAS["bar"].version}
    assert run("list", "nobody")[0] == 2


def test_without_a_registry_nothing_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLINE_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SEAMLINE_SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    for words in (("check",), ("register", "ohlcv.binance.spot.1m")):
        status, out, error = run(*words)
        assert (status, out) == (3, "")
        assert "the schema registry does not answer" in error
