"""The smallest real machine: copies each landed record to conformed, with a position beside it.

It decides nothing about data, so that what a test sees is the lane and the owner. Each conformed
value is the landed value behind one byte for the topic it came from. A record whose value is
POISON cannot be processed, ever; one whose value starts with SLOW takes a while.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from seamline.connectors.world import World
from seamline.schemas.modes import CANARY, Policies, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.topics import POSITION_KEY, topic_name
from seamline.streams.kernel.intake import POISONED
from seamline.streams.kernel.protocol import (
    ROLES,
    STEP_ROWS_MAX,
    Batch,
    PartitionReader,
    Record,
    Role,
    Step,
)
from seamline.streams.kernel.quarantined import Quarantined, quarantine_batch

POISON = b"poison"
SLOW = b"slow"
SLOW_S = 1.0
MARKS: Mapping[Role, bytes] = {"live": b"L", "backfill": b"B"}


class CopyMachine:
    def __init__(self, preset_id: str, position: Mapping[str, int]) -> None:
        self._preset_id = preset_id
        self._conformed = topic_name(preset_id, "conformed")
        self._positions = topic_name(preset_id, "positions")
        self._position = dict(position)

    @property
    def position(self) -> Mapping[str, int]:
        return self._position

    @property
    def frontier_ns(self) -> int | None:
        return None

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        taken = records[start : start + STEP_ROWS_MAX]
        if taken[0].offset < self._position[role]:
            raise AssertionError(f"{role}: offset {taken[0].offset} again, at {self._position}")
        mark = MARKS[role]
        values: list[bytes | None] = []
        for record in taken:
            value = record.value or b""
            if value == POISON:
                raise ValueError(f"poison at {record.offset}")
            if value.startswith(SLOW):
                time.sleep(SLOW_S)
            values.append(mark + value)
        position = {**self._position, role: taken[-1].offset + 1}
        encoded = json.dumps(position).encode()
        return Step(
            batches=(
                Batch(self._conformed, [r.key for r in taken], values, want="first"),
                Batch(self._positions, [POSITION_KEY], [encoded]),
            ),
            next_index=start + len(taken),
            rows=len(taken),
            counts={"inserted": len(taken)},
            note=position,
        )

    def tick(self, clock_ns: int) -> Step | None:
        return None

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        position = {**self._position, role: record.offset + 1}
        refused = Quarantined(record, POISONED, detail)
        return Step(
            batches=(
                quarantine_batch(self._preset_id, [refused], clock_ns),
                Batch(self._positions, [POSITION_KEY], [json.dumps(position).encode()]),
            ),
            next_index=1,
            rows=0,
            quarantined={POISONED: 1},
            note=position,
        )

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        assert all(len(found) == 1 for found in offsets.values())
        self._position = step.note

    def close(self) -> None:
        pass


class CopyFactory:
    def __init__(self, preset_id: str) -> None:
        self._preset_id = preset_id

    def warm(self) -> None:
        pass

    def series(self) -> Sequence[tuple[str, str]]:
        return [(topic_name(self._preset_id, role) + "-value", "canary") for role in ROLES]

    def outputs(self) -> Sequence[str]:
        roles = ("conformed", "quarantine", "positions")
        return [topic_name(self._preset_id, role) for role in roles]

    def policy(self, role: Role) -> Policy:
        return Policy(CANARY)

    def rebuild(self, reader: PartitionReader) -> CopyMachine:
        position: dict[str, int] = dict.fromkeys(ROLES, 0)
        for key, value, _ in reader.latest(topic_name(self._preset_id, "positions")):
            if key == POSITION_KEY:
                position.update(json.loads(value))
        return CopyMachine(self._preset_id, position)


def copy_factory(
    preset: Preset,
    derived: tuple[Preset, ...],
    world: World,
    directory: Path,
    policies: Policies,
) -> CopyFactory:
    return CopyFactory(preset.id)
