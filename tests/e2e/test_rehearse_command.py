"""`seamline schema rehearse` on a real broker and registry: exactly what was put there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from landing_mix import FAULTS, Mix, land, register_stranger
from preset_making import FreshPreset, make_preset
from seamline.connectors.governance import rehearsing
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.governance.rehearsal_file import Progress
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.world import REGISTRY_VARIABLE, World
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.errors import UsageError
from seamline.schemas.topics import partition_of, subject_of
from seamline.sdk.cli.main import app
from seamline.streams.kernel.intake import NAMES
from seamline.streams.kernel.rehearsal import OTHERS, Evidence
from third_party import ThirdParty

RECORDS = 200_000
FEW = 8_000
HOURS_2_NS = 2 * 3_600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Landed:
    fresh: FreshPreset
    mix: Mix
    subject: str


@pytest.fixture(scope="module")
def registry(world: World) -> Iterator[RemoteSchemaRegistryClient]:
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    yield client
    client.close()


@pytest.fixture(scope="module")
def few(
    world: World, registry: RemoteSchemaRegistryClient, tmp_path_factory: pytest.TempPathFactory
) -> Landed:
    """A topic for the tests in which the number of records says nothing."""
    return landing(world, registry, tmp_path_factory.mktemp("few"), FEW)


def landing(
    world: World, registry: RemoteSchemaRegistryClient, directory: Path, records: int
) -> Landed:
    fresh = make_preset(world, directory)
    subject = subject_of(fresh.topic("live"))
    stranger = register_stranger(registry, subject)
    with ThirdParty(world, fresh.preset, retype={"volume": "string"}) as third:
        mix = land(
            world,
            fresh.preset,
            fresh.ids,
            unknown_id=stranger,
            drifted=third,
            records=records,
            now_ns=time.time_ns(),
            symbols=records // 4_000,
            faults=FAULTS if records == RECORDS else tuple(replace(f, count=2) for f in FAULTS),
        )
    return Landed(fresh, mix, subject)


def run(fresh: FreshPreset, *arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app, ["schema", "rehearse", *arguments], env=fresh.environment() | environment
    )
    return result.exit_code, result.stdout, result.stderr


def plan_of(landed: Landed, **changes: Any) -> rehearsing.Plan:
    now_ns = time.time_ns()
    plan = rehearsing.Plan(
        subject=landed.subject,
        preset=landed.fresh.preset,
        since="2h",
        since_ns=now_ns - HOURS_2_NS,
        now_ns=now_ns,
        bundle_sha256=BUNDLE_SHA256,
    )
    return replace(plan, **changes)


def test_it_reports_exactly_what_was_injected_and_records_it(
    world: World, registry: RemoteSchemaRegistryClient, tmp_path: Path
) -> None:
    landed = landing(world, registry, tmp_path, RECORDS)
    fresh, mix = landed.fresh, landed.mix
    before = len(GovernanceLog(fresh.world.cluster).read().entries)
    status, out, err = run(
        fresh, f"{fresh.preset.id}.live", "--since", "2h", "--actor", "ops", "-o", "json"
    )
    assert status == 0, err
    found = Evidence.from_json(json.loads(out))
    assert found.records == RECORDS and found.bars == RECORDS - mix.blocked
    assert dict(found.by_rule) == dict(mix.by["rule"])
    assert dict(found.by_schema) == dict(mix.by["schema"])
    assert dict(found.by_producer) == dict(mix.by["producer"])
    symbols = dict(found.by_symbol)
    rest = symbols.pop(OTHERS, 0)
    assert len(symbols) == 20 and sum(symbols.values()) + rest == mix.blocked
    assert {name: mix.by["symbol"][name] for name in symbols} == symbols
    assert min(symbols.values()) >= max(
        (n for name, n in mix.by["symbol"].items() if name not in symbols), default=0
    )
    assert (found.blocked_records, found.blocked_in_canary) == (mix.blocked, mix.in_canary)
    assert (found.blocked_bars, found.missing_bars) == (mix.bars, mix.missing)
    assert found.stale_minutes == mix.stale
    assert found.complete and not found.clean
    ends = Admin(fresh.world.cluster).end_offsets([(fresh.topic("live"), n) for n in range(4)])
    assert found.partitions == {n: (0, ends[fresh.topic("live"), n]) for n in range(4)}
    entries = GovernanceLog(fresh.world.cluster).read().entries
    assert len(entries) == before + 1
    entry = entries[-1]
    assert (entry.action, entry.subject, entry.actor) == ("rehearse", landed.subject, "ops")
    assert entry.window_ns == (found.since_ns, found.ended_ns)
    assert Evidence.from_json(entry.evidence) == found


def test_an_interrupted_rehearsal_goes_on_to_the_same_numbers(
    few: Landed, registry: RemoteSchemaRegistryClient, tmp_path: Path
) -> None:
    cluster = few.fresh.world.cluster
    resolve = Meanings(registry, NAMES)
    plan = plan_of(few)
    whole = rehearsing.rehearse(cluster, plan, resolve)
    file = tmp_path / "rehearsal.json"
    kept = plan_of(few, resume=file, since_ns=plan.since_ns, now_ns=plan.now_ns)
    stops = 0

    def stop(progress: Progress) -> None:
        nonlocal stops
        if sum(progress.positions.values()) > (stops + 1) * FEW // 4:
            stops += 1
            raise KeyboardInterrupt

    evidence = None
    for _ in range(10):
        try:
            # What is asked anew each time is ignored: the file says since when and up to where.
            later = replace(kept, now_ns=time.time_ns(), since_ns=time.time_ns() - HOURS_2_NS)
            evidence = rehearsing.rehearse(cluster, later, resolve, stop, save_s=0, batch_max=500)
            break
        except KeyboardInterrupt:
            continue
    assert stops >= 2 and evidence is not None
    assert replace(evidence, since_ns=0, ended_ns=0, window_ns=0, traffic=whole.traffic) == replace(
        whole, since_ns=0, ended_ns=0, window_ns=0
    )
    with pytest.raises(UsageError, match="since"):
        rehearsing.rehearse(cluster, replace(kept, since="1h"), resolve)
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: len(text) // 2], encoding="utf-8")
    status, _, err = run(few.fresh, few.subject, "--resume", str(file), "--no-record")
    assert status == 2 and "damaged or cut" in err and "Delete it" in err
    assert file.read_text(encoding="utf-8") == text[: len(text) // 2]


def test_without_a_registry_it_says_that_it_is_incomplete(few: Landed) -> None:
    status, out, err = run(
        few.fresh,
        *(few.subject, "--since", "2h", "--no-record", "-o", "json"),
        **{REGISTRY_VARIABLE: "http://127.0.0.1:9/none"},
    )
    found = Evidence.from_json(json.loads(out))
    assert status == 1 and not found.complete, err
    # What has no schema id at all needs no registry.
    assert set(found.by_rule) == {"registry_unavailable"}
    assert found.blocked_records == FEW


def test_wrong_input_is_named(few: Landed, fresh_preset: Any) -> None:
    preset = few.fresh.preset.id
    for arguments, wanted in (
        ((f"{preset}.live", "--since", "2199-01-01T00:00:00Z"), "not in the past"),
        ((f"{preset}.live", "--since", "yesterday"), "since"),
        ((f"{preset}.quarantine",), "subject"),
        (("ohlcv.nobody.spot.1m.live",), "preset"),
        ((f"{preset}.live", "--actor", " "), "actor"),
        ((f"{preset}.live", "--bundle", "/nowhere"), "bundle"),
    ):
        status, out, err = run(few.fresh, *arguments)
        assert status == 2 and wanted in err and not out, (arguments, err)
    empty = fresh_preset()
    status, out, _ = run(empty, f"{empty.preset.id}.live", "--no-record", "-o", "json")
    found = Evidence.from_json(json.loads(out))
    assert status == 0 and found.records == 0 and "nothing was there" in found.notes[-1]


def test_what_is_no_longer_retained_is_said(few: Landed) -> None:
    topic, number = few.fresh.topic("live"), partition_of("M0/USDT", 4)
    admin = AdminClient({"bootstrap.servers": few.fresh.world.cluster.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, number, 100)]).values():
        future.result(timeout=30)
    status, out, err = run(few.fresh, topic, "--since", "2h", "--no-record")
    assert status == 0, err
    assert f"partitions [{number}]" in " ".join(out.split()) and "negative_volume" in out
