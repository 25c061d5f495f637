"""A preset on the broker with a writer of the protocol and the product's readers, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from kafka_sink import KafkaSink, fresh_seam_preset
from log_writer import MINUTE, START, LogWriter, Record
from seamline.connectors.world import World
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_time
from seamline.schemas.topics import partition_of, topic_name
from seamline.sdk import CaughtUp, Event, SeamStream, stitch

A, B, C = "BTC/USDT", "ETH/USDT", "SOL/USDT"


class Plane:
    """A preset on the broker, its writer and its readers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.preset: Preset = fresh_seam_preset(world)
        self.sink = KafkaSink(world, self.preset)
        self.writer = LogWriter(self.sink)

    def fill(self, bars: int = 20, sealed: int = 16, *symbols: str) -> None:
        for at in range(0, bars, 4):
            for cell in range(at, min(at + 4, bars)):
                for symbol in symbols or (A,):
                    self.writer.bar(symbol, cell)
            self.writer.commit()
        for symbol in symbols or (A,):
            self.writer.seal(symbol, sealed)
        self.writer.commit()

    def read(
        self, *symbols: str, first: int = 0, last: int | None = None, **more: Any
    ) -> SeamStream:
        return stitch(
            self.preset.id,
            symbols or (A,),
            format_time(START + first * MINUTE),
            end=None if last is None else format_time(START + last * MINUTE),
            world=self.world,
            presets={self.preset.id: self.preset},
            **{"on_gap": "flag", **more},
        )

    def history(self, *symbols: str, **more: Any) -> list[Event]:
        with self.read(*symbols, follow=False, **more) as stream:
            return list(stream)

    def truncate(self, role: str, symbol: str, offset: int) -> None:
        """As retention does: records before an offset are gone."""
        where = topic_name(self.preset.id, role), partition_of(symbol, self.preset.partitions)
        admin = AdminClient(self.world.cluster.client_config())
        for future in admin.delete_records([TopicPartition(*where, offset)]).values():
            future.result(15)


def rewrite(plane: Plane, role: str, salt: int, **change: object) -> None:
    """Revise a sealed bar, with something in the record of a role that the protocol forbids."""
    plane.writer.bar(A, 3, salt=salt)
    plane.writer.seal(A, 16)
    changed: list[Record] = []
    for record in plane.writer.pending:
        payload = replace(record.payload, **change) if record.role == role else record.payload
        changed.append(replace(record, payload=payload))
    plane.writer.pending = changed
    plane.writer.commit()


def until_caught_up(stream: Iterator[Event] | SeamStream) -> list[Event]:
    """The events of a history, its certificate last."""
    events = []
    for event in stream:
        events.append(event)
        if isinstance(event, CaughtUp):
            return events
    raise AssertionError("the stream ended before it caught up")
