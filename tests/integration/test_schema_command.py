"""`seamline schema` on a real registry and broker: checked before it is changed, and audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.governance.log import Change, GovernanceLog, Governed
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered, subjects_of
from seamline.schemas.audit import Draft
from seamline.schemas.contract import BUNDLE_SHA256, SCHEMAS, fingerprint_of_text
from seamline.schemas.errors import ContractError, SchemaValidationError
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.sdk.cli.main import app

PROD = {"SEAMLINE_PROFILE": "prod"}


@pytest.fixture
def fresh(fresh_preset: MakePreset) -> FreshPreset:
    return fresh_preset()


@pytest.fixture
def client(fresh: FreshPreset) -> Iterator[RemoteSchemaRegistryClient]:
    made = RemoteSchemaRegistryClient(fresh.world.registry_url, fresh.world.registry_auth)
    yield made
    made.close()


def run(fresh: FreshPreset, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    words = ["schema", *arguments, "-o", "json"]
    result = CliRunner().invoke(app, words, env=fresh.environment() | {"SEAMLINE_ACTOR": "ann"})
    assert result.exit_code == status, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout) if result.stdout else []
    return rows


def proposal(directory: Path, name: str, change: Any) -> Path:
    """The approved bundle and one version more of `name`."""
    if not directory.exists():
        done = CliRunner().invoke(app, ["schema", "bundle", "--export", str(directory)])
        assert done.exit_code == 0
    schema = json.loads(SCHEMAS[name].text)
    change(schema["fields"])
    file = directory / f"{name}.v{SCHEMAS[name].version + 1}.avsc"
    file.write_text(json.dumps(schema))
    return directory


def added(fields: list[dict[str, Any]]) -> None:
    fields.append({"name": "remark", "type": ["null", "string"], "default": None})


def broken(fields: list[dict[str, Any]]) -> None:
    fields[0]["name"] = "other_name"


def make_strict(fresh: FreshPreset, subject: str) -> None:
    def decide(governed: Governed) -> Change:
        state = SubjectState(subject, STRICT, 1, 1, "ann", "as a test", BUNDLE_SHA256)
        return Change((Draft("promote", subject, "ann", "as a test"),), (state,))

    GovernanceLog(fresh.world.cluster).commit(decide)


def registers(fresh: FreshPreset) -> list[Any]:
    entries = GovernanceLog(fresh.world.cluster).read().entries
    names = {subject.name for subject in subjects_of(fresh.preset)}
    return [e for e in entries if e.action == "register" and e.subject in names]


def test_what_is_there_changes_nothing_and_is_audited_once(fresh: FreshPreset) -> None:
    rows = run(fresh, "check", fresh.preset.id)
    assert {row["verdict"] for row in rows} == {"unchanged"}
    assert registers(fresh) == []
    for _ in range(2):
        done = run(fresh, "register", fresh.preset.id)
        entries = registers(fresh)
        assert len(entries) == len(done) == len(rows)
    assert {e.actor for e in entries} == {"ann"}
    assert {e.bundle_sha256 for e in entries} == {BUNDLE_SHA256}
    by_subject = {(e.subject, e.evidence["id"]) for e in entries}
    assert by_subject == {(row["subject"], row["id"]) for row in done}


def test_canary_takes_what_breaks_and_says_so_strict_refuses_all_of_it(
    fresh: FreshPreset, client: RemoteSchemaRegistryClient, tmp_path: Path
) -> None:
    subjects = {s.role: s for s in subjects_of(fresh.preset)}
    seals, gaps = subjects["seals"].name, subjects["gaps"].name
    make_strict(fresh, seals)
    wanted = proposal(tmp_path / "fine", "seal", added)
    proposal(wanted, "gap", broken)
    said = {r["subject"]: r for r in run(fresh, "check", fresh.preset.id, "--bundle", str(wanted))}
    assert (said[seals]["verdict"], said[seals]["added"]) == ("new", "remark")
    assert said[seals]["registry_level"] == "NONE -> FULL_TRANSITIVE"
    assert said[gaps]["verdict"] == "breaks"
    assert "other_name" in said[gaps]["breaking"]
    run(fresh, "check", fresh.preset.id, "--bundle", str(wanted), "--strict", status=1)
    assert len(client.versions(seals)) == len(client.versions(gaps)) == 1
    done = run(fresh, "register", fresh.preset.id, "--bundle", str(wanted))
    assert {r["version"] for r in done if r["subject"] in (seals, gaps)} == {2}
    assert client.compatibility(gaps) == "NONE"
    # The registry is as strict now, also against those who do not ask us.
    assert client.compatibility(seals) == "FULL_TRANSITIVE"
    worse = json.loads(SCHEMAS["seal"].text)
    broken(worse["fields"])
    with pytest.raises(ContractError) as raised:
        client.register(seals, json.dumps(worse))
    assert raised.value.fields["status"] == 409

    refused = proposal(tmp_path / "refused", "seal", broken)
    proposal(refused, "report", added)
    before = {s.name: client.versions(s.name) for s in subjects.values()}
    entries = registers(fresh)
    run(fresh, "check", fresh.preset.id, "--bundle", str(refused), status=1)
    run(fresh, "register", fresh.preset.id, "--bundle", str(refused), status=1)
    assert {name: client.versions(name) for name in before} == before
    assert registers(fresh) == entries
    # A program that starts goes by the mode as well, and leaves the level alone.
    assert ensure_registered(client, fresh.preset, lambda _: STRICT) == fresh.ids
    assert client.compatibility(seals) == "FULL_TRANSITIVE"


def test_live_and_backfill_start_under_the_modes_and_not_by_the_level_of_the_registry(
    fresh: FreshPreset, client: RemoteSchemaRegistryClient
) -> None:
    """A subject of several records keeps the level NONE in the registry, also when it is strict."""
    backfill = next(s for s in subjects_of(fresh.preset) if s.role == "backfill")
    assert (len(backfill.schemas), backfill.strict_level) == (2, "NONE")
    for version in client.versions(backfill.name):
        client.withdraw(backfill.name, version)
    foreign = json.loads(SCHEMAS["bar"].text)
    broken(foreign["fields"])
    client.register(backfill.name, json.dumps(foreign))
    make_strict(fresh, backfill.name)
    env = fresh.environment() | {"SEAMLINE_PROFILE": "dev"}
    asked = (fresh.preset.id, "--symbols", "BTC/USDT")
    for words in (("live", *asked), ("backfill", "run", *asked, "--start", "-1d")):
        result = CliRunner().invoke(app, list(words), env=env)
        assert result.exit_code == 1, result.output
        assert "SchemaValidationError" in result.stderr and "incompatible_schema" in result.stderr
        held = map(fingerprint_of_text, client.versions(backfill.name).values())
        assert SCHEMAS["bar"].fingerprint not in held


def test_outside_dev_nothing_is_registered_by_itself(
    fresh: FreshPreset, client: RemoteSchemaRegistryClient
) -> None:
    assert ensure_registered(client, fresh.preset, lambda _: CANARY, env=PROD) == fresh.ids
    other = replace(fresh.preset, id=f"{fresh.preset.id}.other")
    with pytest.raises(ContractError, match="seamline schema register") as raised:
        ensure_registered(client, other, lambda _: CANARY, env=PROD)
    assert raised.value.fields["subject"] == f"seamline.{other.id}.live-value"
    assert client.latest(f"seamline.{other.id}.live-value") is None
    assert not isinstance(raised.value, SchemaValidationError)
    ids = ensure_registered(client, other, lambda _: CANARY)
    # A schema that was deleted while it is in use: its id is read on, and it is registered again.
    subject = f"seamline.{other.id}.positions-value"
    client.withdraw(subject, 1)
    assert client.latest(subject) is None
    assert client.by_id(ids["position"])
    with pytest.raises(ContractError, match="does not hold position"):
        ensure_registered(client, other, lambda _: CANARY, env=PROD)
    assert ensure_registered(client, other, lambda _: CANARY) == ids
