"""Topics on a real broker: planned, made, and never changed silently."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import ROLES, topic_name
from seamline.sdk.cli.main import app


def run(fresh: FreshPreset, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["topics", *arguments], env=fresh.environment())
    return result.exit_code, result.stdout, result.stderr


def renamed(fresh: FreshPreset, suffix: str) -> Preset:
    """A preset of the same settings that has no topics yet."""
    return replace(fresh.preset, id=f"{fresh.preset.id}.{suffix}")


def test_what_is_missing_is_planned_and_made_with_its_settings(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset()
    cluster, preset = fresh.world.cluster, renamed(fresh, "other")
    names = [topic_name(preset.id, role) for role in ROLES]
    assert [d.topic for d in topics.plan(cluster, preset) if d.missing] == names
    made = topics.apply(cluster, preset)
    assert made.created == tuple(sorted(names))
    assert topics.plan(cluster, preset) == []
    assert topics.apply(cluster, preset) == topics.Applied((), ())
    found = Admin(cluster).topics(names)
    assert {t.partitions for t in found.values()} == {preset.partitions}
    assert found[names[0]].config["message.timestamp.type"] == "LogAppendTime"
    assert found[topic_name(preset.id, "storage")].config["max.compaction.lag.ms"] == "1800000"
    topics.assert_partitions(cluster, preset)


def test_a_setting_that_differs_is_refused_until_alter_is_said(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset()
    cluster, preset = fresh.world.cluster, fresh.preset
    conformed, live = fresh.topic("conformed"), fresh.topic("live")
    Admin(cluster).alter(conformed, {"retention.ms": "60000"})
    Admin(cluster).alter(live, {"max.message.bytes": "2000000"})  # not ours to judge
    difference = topics.TopicDifference(conformed, "retention.ms", "60000", "1209600000")
    assert topics.plan(cluster, preset) == [difference]
    with pytest.raises(ContractError, match="--alter") as raised:
        topics.apply(cluster, preset)
    assert raised.value.fields["differences"] == [
        {"topic": conformed, "field": "retention.ms", "have": "60000", "want": "1209600000"}
    ]
    assert topics.plan(cluster, preset) == [difference]
    assert topics.apply(cluster, preset, alter=True).altered == (difference,)
    assert topics.plan(cluster, preset) == []
    assert Admin(cluster).topics([live])[live].config["max.message.bytes"] == "2000000"


def test_a_partition_count_is_never_changed(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset(partitions=2)
    cluster, wider = fresh.world.cluster, replace(fresh.preset, partitions=3)
    assert {d.field for d in topics.plan(cluster, wider)} == {"partitions"}
    for alter in (False, True):
        with pytest.raises(ContractError, match="fixed when a preset is created"):
            topics.apply(cluster, wider, alter=alter)
    with pytest.raises(ContractError) as raised:
        topics.assert_partitions(cluster, wider, ["conformed"])
    assert raised.value.fields["topic"] == fresh.topic("conformed")
    assert (raised.value.fields["have"], raised.value.fields["want"]) == (2, 3)
    assert set(Admin(cluster).partitions([fresh.topic(r) for r in ROLES]).values()) == {2}


def test_nothing_is_made_beside_a_topic_that_is_wrong(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset()
    cluster, preset = fresh.world.cluster, renamed(fresh, "half")
    wrong = replace(preset, partitions=1)
    only = topics.wanted_topics(wrong, 1)[0]
    Admin(cluster).create([only])
    with pytest.raises(ContractError):
        topics.apply(cluster, preset)
    names = [topic_name(preset.id, role) for role in ROLES]
    assert list(Admin(cluster).partitions(names)) == [only.name]


def test_a_setting_that_the_broker_has_by_default_is_no_difference(
    fresh_preset: MakePreset,
) -> None:
    fresh = fresh_preset()
    cluster, preset = fresh.world.cluster, renamed(fresh, "plain")
    live = topics.wanted_topics(preset, 1)[0]
    bare = {n: v for n, v in live.config.items() if n != "cleanup.policy"}
    Admin(cluster).create([replace(live, config=bare)])
    assert [d for d in topics.plan(cluster, preset) if d.topic == live.name] == []


def test_start_up_names_a_topic_that_is_missing(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset()
    preset = renamed(fresh, "absent")
    with pytest.raises(ContractError, match=f"seamline topics apply {preset.id}"):
        topics.assert_partitions(fresh.world.cluster, preset)


def test_the_commands_cover_derived_presets(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset(derive=("5m",))
    status, out, err = run(fresh, "plan", fresh.preset.id, "-o", "json")
    assert (status, json.loads(out)) == (0, [])
    assert "as they should be" in err
    derived = fresh.derived[0]
    Admin(fresh.world.cluster).alter(
        topic_name(derived.id, "seals"), {"min.cleanable.dirty.ratio": "0.5"}
    )
    status, out, _ = run(fresh, "plan", fresh.preset.id, "-o", "json")
    assert status == 0
    assert [(row["topic"], row["have"]) for row in json.loads(out)] == [
        (topic_name(derived.id, "seals"), "0.5")
    ]
    status, out, err = run(fresh, "apply", fresh.preset.id)
    assert (status, out) == (1, "")
    assert "min.cleanable.dirty.ratio" in err
    status, out, _ = run(fresh, "apply", fresh.preset.id, "--alter", "-o", "json")
    assert status == 0
    assert [row["done"] for row in json.loads(out)] == ["changed"]


def test_wrong_usage_and_a_world_that_is_not_there(fresh_preset: MakePreset) -> None:
    fresh = fresh_preset()
    assert run(fresh, "plan", "ohlcv.nobody.spot.1m")[0] == 2
    nowhere = fresh.environment() | {"SEAMLINE_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    result = CliRunner().invoke(app, ["topics", "plan", fresh.preset.id], env=nowhere)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Connection refused" in result.stderr
