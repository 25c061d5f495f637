"""Certificates checked against Kafka later, frames, and the commands `read` and `seam verify`."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from log_writer import MINUTE, START, content
from seam_plane import A, B, Plane
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import format_time
from seamline.sdk import Bar, Certificate
from seamline.sdk.certificate import load, save, verify
from seamline.sdk.frames import bars_frame, history_frame
from seamline.streams.kernel.seam_certificate import Certificate as KernelCertificate


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


def certified(plane: Plane, *symbols: str, **more: Any) -> Certificate:
    with plane.read(*symbols, follow=False, **more) as stream:
        list(stream)
        assert stream.certificate is not None
        return stream.certificate


def status(plane: Plane, certificate: Certificate) -> tuple[str, list[dict[str, Any]]]:
    _, answer = verify(certificate, world=plane.world, presets={plane.preset.id: plane.preset})
    return answer["status"], answer["changes"]


def test_a_certificate_stays_verified_while_only_new_bars_come(plane: Plane) -> None:
    plane.fill(20, 14, A, B)
    certificate = certified(plane, A, B)
    assert status(plane, certificate) == ("verified", [])
    for cell in range(20, 30):
        plane.writer.bar(A, cell)
        plane.writer.bar(B, cell)
    plane.writer.seal(A, 26)
    plane.writer.seal(B, 24)
    plane.writer.commit()
    assert status(plane, certificate) == ("verified", [])


def test_a_revised_block_is_explained_by_superseded(plane: Plane) -> None:
    plane.fill()
    certificate = certified(plane)
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    plane.writer.bar(A, 3, salt=2)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    found, [change] = status(plane, certificate)
    assert found == "revised"
    assert (change["by"], change["revised"], change["added"]) == ("superseded", 1, 0)


def test_a_revised_bar_of_the_log_part_is_told(plane: Plane) -> None:
    plane.fill()
    certificate = certified(plane)
    plane.writer.bar(A, 18, salt=1)
    plane.writer.commit()
    found, [change] = status(plane, certificate)
    assert (found, change["by"]) == ("revised", "later revisions")
    plane.writer.seal(A, 20)
    plane.writer.commit()
    assert status(plane, certificate)[0] == "revised"


def test_added_rows_and_completions_are_explained(plane: Plane) -> None:
    for cell in (*range(5), *range(6, 20)):
        plane.writer.bar(A, cell, optional=cell != 9)
    plane.writer.gap(A, 5, 6)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    certificate = certified(plane)
    plane.writer.bar(A, 5)
    plane.writer.gap(A, 5, None)
    plane.writer.complete(A, 9)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    found, changes = status(plane, certificate)
    assert found == "revised"
    assert [(c["by"], c["added"]) for c in changes] == [("added rows", 1), ("completed", 0)]


def test_a_change_that_nothing_explains(plane: Plane) -> None:
    plane.fill()
    certificate = certified(plane)
    state = plane.writer.state(A)
    plane.writer.bar(A, 3, salt=1)
    plane.writer.pending = []  # no value in superseded, and the known time of before
    row = state.rows[START + 3 * MINUTE]
    assert row.revision == 1
    plane.writer.seal(A, 16)
    plane.writer.commit()
    found, [change] = status(plane, certificate)
    assert (found, change["status"]) == ("unexplained", "unexplained")


def test_beyond_retention_a_certificate_is_expired(plane: Plane) -> None:
    plane.fill()
    certificate = certified(plane)
    plane.writer.seal(A, 20, overlap=0)
    plane.writer.commit()
    end = plane.sink.next_conformed(A)
    plane.truncate("conformed", A, end)
    assert status(plane, certificate)[0] == "expired"


def test_a_changed_file_is_refused(plane: Plane, tmp_path: Path) -> None:
    plane.fill()
    certificate = certified(plane)
    path = tmp_path / "c.json"
    save(certificate, path)
    assert load(path) == certificate
    tree = json.loads(path.read_text())
    tree["duplicates"] = 1
    path.write_text(json.dumps(tree))
    with pytest.raises(ContractError, match="hash does not fit"):
        load(path)
    path.write_text("{}")
    with pytest.raises(UsageError, match="not a certificate"):
        load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "none.json")
    assert Certificate is KernelCertificate


def test_the_summary_says_what_was_proved(plane: Plane) -> None:
    plane.fill()
    text = certified(plane).summary()
    assert "16 bars from storage + 4 from the log = 20" in text
    assert "overlap 4 of 4 equal" in text
    assert "contiguous: 0 bars named missing by the gap ledger, 0 without an entry" in text
    plane.writer.seal(A, 16, overlap=0)
    plane.writer.commit()
    assert "overlap empty" in certified(plane).summary()


def test_frames_of_columns_and_of_events_agree(plane: Plane) -> None:
    plane.fill(20, 16, A, B)
    plane.writer.bar(A, 20, optional=False)
    plane.writer.commit()
    with plane.read(A, B, follow=False) as stream:
        by_columns = history_frame(stream.history_columns())
    by_events = bars_frame(plane.history(A, B))
    shared = [name for name in by_columns.columns if name in by_events.columns]
    assert len(by_columns) == len(by_events) == 41
    for name in shared:
        left, right = by_columns[name], by_events[name]
        assert (left.isna() == right.isna()).all(), name
        assert (left.dropna().to_numpy() == right.dropna().to_numpy()).all(), name
    assert str(by_columns["open_time"].dtype) == "datetime64[ns, UTC]"
    assert len(bars_frame([])) == len(history_frame({})) == 0


PRESETS = """
version: 1
data_presets:
  {id}:
    kind: ohlcv
    interval_ms: 60000
    contract_version: v1
    partitions: {partitions}
    block_rows: {block_rows}
    stabilization_bars: 2
"""


class Command:
    """The command line in its own process, on the test's world and preset."""

    def __init__(self, plane: Plane, directory: Path) -> None:
        file = directory / "presets.yaml"
        preset = plane.preset
        file.write_text(
            PRESETS.format(id=preset.id, partitions=preset.partitions, block_rows=preset.block_rows)
        )
        self.environment = {
            **os.environ,
            **plane.world.environment(),
            "SEAMLINE_PRESETS_FILE": str(file),
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from seamline.sdk.cli.main import run; run()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def test_read_and_verify_as_commands(plane: Plane, tmp_path: Path) -> None:
    plane.fill(20, 16, A, B)
    run = Command(plane, tmp_path)
    start = format_time(START)
    file = tmp_path / "cert.json"
    asked = ("read", plane.preset.id, "--symbols", f"{A},{B}", "--start", start)
    read = run(*asked, "-o", "json", "--certificate", str(file))
    assert read.returncode == 0, read.stderr
    objects = [json.loads(line) for line in read.stdout.splitlines()]
    assert [o["event"] for o in objects] == ["bar"] * 40 + ["caught_up"]
    assert objects[0]["open"] == content(0)["open"]
    assert objects[0]["open_time"] == start
    assert objects[-1]["certificate"] == json.loads(file.read_text())
    verified = run("seam", "verify", str(file), "-o", "json")
    assert (verified.returncode, json.loads(verified.stdout)["status"]) == (0, "verified")

    table = run(*asked)
    assert table.returncode == 0
    assert "certificate sha256" in table.stdout
    rows = run(*asked, "-o", "csv")
    listed = list(csv.DictReader(io.StringIO(rows.stdout)))
    assert len(listed) == 40
    assert "contiguous" in rows.stderr

    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    revised = run("seam", "verify", str(file))
    assert revised.returncode == 1
    assert "superseded" in revised.stdout
    file.write_text(file.read_text().replace('"duplicates": 0', '"duplicates": 5'))
    assert run("seam", "verify", str(file)).returncode == 1
    for wrong, said in (
        (("--start", "5"), "start"),
        (("--start", "2026-01-01T00:00:00"), "naive"),
        (("--start", start, "--end", start), "start"),
        (("--start", start, "--on-gap", "hope"), "on_gap"),
    ):
        refused = run("read", plane.preset.id, "--symbols", A, *wrong)
        assert (refused.returncode, refused.stdout) == (2, ""), wrong
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
    unknown = run("read", plane.preset.id, "--symbols", "BTC/USD", "--start", start)
    assert unknown.returncode == 2
    assert A in unknown.stderr


def test_events_of_read_are_bars(plane: Plane) -> None:
    plane.fill(4, 0)
    assert [type(event) for event in plane.history()[:-1]] == [Bar] * 4
