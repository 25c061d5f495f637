"""A reader in canary and in strict, on the real broker and registry."""

from __future__ import annotations

import pytest

from log_writer import content
from mode_setting import set_mode
from seam_plane import A, Plane, until_caught_up
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.world import World
from seamline.schemas.errors import SchemaValidationError
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.topics import subject_of, topic_name
from seamline.sdk import Bar, CaughtUp
from venue_world import all_records

BROKEN = {**content(20), "high": 1.0}
TRIES = 40


def test_a_reader_passes_in_canary_what_it_refuses_in_strict(world: World) -> None:
    """The same log in both modes, then a change of mode under a stream that is live."""
    plane = Plane(world)
    plane.fill()
    conformed, storage = (
        subject_of(topic_name(plane.preset.id, role)) for role in ("conformed", "storage")
    )
    set_mode(world, conformed, STRICT)
    set_mode(world, storage, STRICT)
    assert len(plane.history()) == 21, "20 bars and the certificate"
    set_mode(world, conformed, CANARY)
    with plane.read() as stream:
        until_caught_up(stream)
        plane.writer.put(A, 20, BROKEN)
        plane.writer.commit()
        assert isinstance(next(stream), Bar)
        assert stream.failures.counts()[conformed, CANARY] == 1
        set_mode(world, conformed, STRICT)
        with pytest.raises(SchemaValidationError) as raised:
            for cell in range(21, 21 + TRIES):  # the tail hears of both topics, in either order
                plane.writer.put(A, cell, BROKEN)
                plane.writer.commit()
                next(stream)
    error = raised.value
    assert (error.subject, error.field, error.value) == (conformed, "high", 1.0)
    assert error.rule == "ohlc_inconsistent" and error.fields["topic"].endswith("conformed")
    assert error.writer_schema == error.reader_schema is not None

    with pytest.raises(SchemaValidationError, match="ohlc_inconsistent"):
        plane.history()
    set_mode(world, conformed, CANARY)
    with plane.read(follow=False) as stream:
        events = list(stream)
    assert isinstance(events.pop(), CaughtUp) and len(events) > 21
    assert stream.failures.counts()[conformed, CANARY] == len(events) - 20
    assert stream.failures.counts()[storage, STRICT] == 0


def test_an_id_that_means_another_schema_is_refused_in_strict(world: World) -> None:
    plane = Plane(world)
    plane.fill()
    conformed = topic_name(plane.preset.id, "conformed")
    (last,) = [r for r in all_records(world, plane.preset, "conformed") if r.key == A.encode()][-1:]
    (seal,) = all_records(world, plane.preset, "seals")[-1:]
    assert last.value is not None and seal.value is not None
    producer = IdempotentProducer(world.cluster)
    other = seal.value[:5] + last.value[5:]
    producer.send(conformed, last.key, other, last.headers, partition=last.partition)
    producer.close()
    assert len(plane.history()) == 21, "canary takes what decodes by its header"
    set_mode(world, subject_of(conformed), STRICT)
    with pytest.raises(SchemaValidationError) as raised:
        plane.history()
    assert raised.value.rule == "fingerprint_mismatch"
    assert raised.value.field == "seamline-fp"
