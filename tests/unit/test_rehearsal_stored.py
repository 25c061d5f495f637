"""What the worker writes is judged as a strict reader would, and a proposed schema counts as
approved while what it drops does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from machine_world import IDS, PARENT, START_NS, SYMBOLS, Row, World, resolve
from seamline.connectors.registry.meanings import Meanings
from seamline.schemas.bundle import Bundle, approved_bundle, bundle_of
from seamline.schemas.codec import frame
from seamline.schemas.contract import SCHEMAS, approved, subject_rules
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.topics import HEADER_FINGERPRINT, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.rehearsal_judge import LandingJudge, as_approved
from seamline.streams.kernel.rehearsal_stored import StoredJudge

ROLES = ("conformed", "storage", "seals", "positions", "gaps", "reports")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("stored"), (PARENT,))
    made.land_bars("live", [Row(SYMBOLS[0], n, 10.0) for n in range(500) if n != 100])
    made.land_bars("live", [Row(SYMBOLS[0], 500, 10.0, volume=-1.0)])
    made.run("live")
    return made


def records_of(world: World, role: str) -> list[MemoryRecord]:
    return world.log.topics.get(topic_name(PARENT.id, role), [])


def reasons(role: str, records: list[MemoryRecord]) -> dict[str, int]:
    judge = StoredJudge(PARENT, 0, role, resolve)
    found: dict[str, int] = {}
    for each in judge.judge(records).blocked:
        found[each.reason] = found.get(each.reason, 0) + 1
    return found


def test_what_the_worker_writes_passes_but_for_what_canary_let_through(world: World) -> None:
    for role in ROLES:
        records = records_of(world, role)
        assert records or role in ("reports", "gaps"), role
        wanted = {"negative_volume": 1} if role == "conformed" else {}
        assert reasons(role, records) == wanted, role


def test_each_role_is_held_to_its_schema_key_and_digest(world: World) -> None:
    for role in ("conformed", "storage", "seals"):
        good = records_of(world, role)[0]
        value = good.value or b""
        broken = [
            replace(good, value=value[:-3]),
            replace(good, value=value[5:]),
            replace(good, value=frame(99) + value[5:]),
            replace(good, value=frame(IDS["trade"]) + value[5:]),
            replace(good, key=b"OTHER"),
            replace(good, headers=((HEADER_FINGERPRINT, b"0" * 16),)),
        ]
        broken = [replace(record, offset=at) for at, record in enumerate(broken)]
        assert reasons(role, broken) == {
            "undecodable": 2,
            "unknown_schema": 2,
            "key_mismatch": 1,
            "fingerprint_mismatch": 1,
        }, role
    block = records_of(world, "storage")[0]
    changed = bytearray(block.value or b"")
    changed[changed.index(b"\x00\x00\x00\x24@")] ^= 1  # one bit of a price of 10.0
    assert reasons("storage", [replace(block, value=bytes(changed))]) == {"invalid_block": 1}


def test_a_null_ends_a_key_where_the_topic_is_compacted() -> None:
    null = MemoryRecord("t", 0, 0, 0, b"k", None)
    assert reasons("storage", [null]) == {}
    assert reasons("conformed", [null]) == {"null_value": 1}


class Registry:
    """Schema texts by id, in memory; `down` for one that does not answer."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts
        self.down = False
        self.asked = 0

    def by_id(self, schema_id: int, within_s: float | None = None) -> str:
        self.asked += 1
        if self.down:
            raise TransportError("no answer")
        if schema_id not in self.texts:
            raise ContractError("no such id")
        return self.texts[schema_id]


def proposal() -> tuple[Bundle, str]:
    """The approved bundle and one more version of the bar, with a field added."""
    newest = SCHEMAS["bar"]
    schema = json.loads(newest.text)
    schema["fields"].append({"name": "note", "type": ["null", "string"], "default": None})
    text = json.dumps(schema)
    files = {f"{s.name}.v{s.version}.avsc": s.text.encode() for s in approved()}
    files[f"bar.v{newest.version + 1}.avsc"] = text.encode()
    return bundle_of(files), text


def resolver(registry: Registry, bundle: Bundle) -> Meanings:
    names = subject_rules("ohlcv")["live"].schemas
    return Meanings(registry, names, bundle)  # type: ignore[arg-type]


def landed(tmp_path: Path, schema_id: int) -> MemoryRecord:
    """A bar as a producer of the proposed version writes it: one field more at the end."""
    world = World(tmp_path, (PARENT,))
    world.land_bars("live", [Row(SYMBOLS[0], 3, 10.0)])
    record = world.landed["live"][0]
    value = frame(schema_id) + (record.value or b"")[5:] + b"\x02\x06hey"
    return replace(record, value=value, timestamp=START_NS // 1_000_000 + 3_600_000)


def test_a_schema_that_only_the_proposal_has_counts_as_approved(tmp_path: Path) -> None:
    bundle, text = proposal()
    registry = Registry({7: text, 8: SCHEMAS["bar"].text})
    record = landed(tmp_path, 7)
    found = resolver(registry, bundle)
    judged = LandingJudge(PARENT, 0, "live", found).judge(
        as_approved([record], found, found.proposed)
    )
    assert judged.accepted == 1 and judged.blocked == []
    # Without the proposal the same record is one of a drifted schema.
    without = resolver(registry, approved_bundle())
    judged = LandingJudge(PARENT, 0, "live", without).judge(
        as_approved([record], without, without.proposed)
    )
    assert [(each.reason, each.in_canary) for each in judged.blocked] == [("schema_drift", False)]
    # Bytes that are not of it are undecodable, never read as something else.
    cut = [replace(record, value=(record.value or b"")[:-2])]
    judged = LandingJudge(PARENT, 0, "live", found).judge(as_approved(cut, found, found.proposed))
    assert [each.reason for each in judged.blocked] == ["undecodable"]


def test_what_a_bundle_drops_is_unknown() -> None:
    everything = approved_bundle()
    kept = tuple(schema for schema in everything.schemas if schema.name != "bar")
    found = resolver(Registry({8: SCHEMAS["bar"].text}), Bundle(kept, "0" * 64))
    assert found(8) is None


def test_known_ids_go_on_without_a_registry_and_unknown_ones_are_asked_again() -> None:
    registry = Registry({8: SCHEMAS["bar"].text, 9: "no schema"})
    found = resolver(registry, approved_bundle())
    assert found(8) == SCHEMAS["bar"] and found(9) is None and found(10) is None
    registry.down = True
    with pytest.raises(TransportError):
        found(11)
    asked = registry.asked
    assert found(8) == SCHEMAS["bar"] and found(9) is None and registry.asked == asked
    registry.down = False
    registry.texts[10] = SCHEMAS["bar"].text
    assert found(10) == SCHEMAS["bar"]
