"""What a reader checks of records beside decoding, in canary and in strict."""

from __future__ import annotations

import numpy as np
import pytest

from registry_server import Reply, serving
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message
from seamline.connectors.world import World
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.contract import SCHEMAS, approved
from seamline.schemas.errors import ContractError, SchemaValidationError, TransportError
from seamline.schemas.modes import CANARY, STRICT, SubjectState, encode_state
from seamline.schemas.topics import SCHEMA_MODES_TOPIC
from seamline.schemas.wire import frame
from seamline.sdk.read_contract import ReadContract, text_in

TOPIC = "seamline.ohlcv.x.1m.conformed"
SUBJECT = f"{TOPIC}-value"
ROW = "conformed_bar"
WRITER = f"{ROW} v{SCHEMAS[ROW].version}"
OURS, OTHER, GARBAGE, MISSING, SILENT = range(1, 6)


class Registry:
    """What ids mean, and which were asked for and how patiently."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, schema_id: int, patient: bool) -> str:
        self.asked.append((schema_id, patient))
        if schema_id == MISSING:
            raise ContractError("none", parameter="schema_id", value=schema_id)
        if schema_id == SILENT:
            raise TransportError("down")
        return {OURS: SCHEMAS[ROW].text, OTHER: SCHEMAS["bar"].text}.get(schema_id, "{")


def contract(
    mode: str, registry: Registry | None = None, tombstones: tuple[str, ...] = ()
) -> ReadContract:
    made = ReadContract(Cluster("127.0.0.1:9"), CANARY, registry or Registry())
    made.create([TOPIC])
    state = SubjectState(SUBJECT, mode, 1, 1, "ann", "because", "ab" * 32, tombstones)
    key = SUBJECT.encode()
    made.take([Message(SCHEMA_MODES_TOPIC, 0, 0, 0, key, encode_state(state), ())])
    return made


def message(schema_id: int = OURS, stated: bytes = SCHEMAS[ROW].header, offset: int = 7) -> Message:
    headers = (("seamline-fp", stated),)
    return Message(TOPIC, 2, offset, 0, b"BTC/USDT", frame(schema_id) + b"...", headers)


FIRST = next(schema for schema in approved() if (schema.name, schema.version) == (ROW, 1))
TWO = (("seamline-fp", FIRST.header), *message().headers)


def failures(made: ReadContract) -> tuple[int, int]:
    counts = made.failures.counts()
    return counts[SUBJECT, CANARY], counts[SUBJECT, STRICT]


def test_what_keeps_the_contract_passes_and_its_id_is_asked_for_once() -> None:
    registry = Registry()
    for mode, patient in ((CANARY, False), (STRICT, True)):
        made = contract(mode, registry)
        assert failures(made) == (0, 0)
        for offset in range(5):
            made.check_records(ROW, [message(offset=offset)] * 3)
        made.check_records(ROW, [])
        assert failures(made) == (0, 0)
        assert registry.asked.pop() == (OURS, patient) and not registry.asked


@pytest.mark.parametrize(
    ("broken", "rule", "writer"),
    [
        (message(OTHER), "fingerprint_mismatch", "schema id 2 of"),
        (message(GARBAGE), "unknown_schema", "schema id 3"),
        (message(MISSING), "unknown_schema", "schema id 4"),
        (message(stated=SCHEMAS["bar"].header), "unknown_schema", "unapproved"),
        (message(stated=b"0123456789abcdef"), "unknown_schema", "unapproved"),
        (message()._replace(headers=()), "unknown_schema", "unapproved"),
        # Decoding goes by the first header, so it has to be the only one.
        (message()._replace(headers=TWO), "fingerprint_mismatch", "several schemas"),
        (message()._replace(value=b"\1\0\0\0\1..."), "unknown_schema", "unapproved"),
        (message()._replace(value=b""), "unknown_schema", "unapproved"),
    ],
)
def test_a_broken_schema_is_counted_in_canary_and_ends_the_read_in_strict(
    broken: Message, rule: str, writer: str
) -> None:
    batch = [message(offset=6), broken, broken._replace(offset=8)]
    canary, strict = contract(CANARY), contract(STRICT)
    canary.check_records(ROW, batch)
    canary.check_records(ROW, batch)  # read again
    assert failures(canary) == (2, 0)
    with pytest.raises(SchemaValidationError) as raised:
        strict.check_records(ROW, batch)
    error = raised.value
    assert (error.subject, error.rule, error.field) == (SUBJECT, rule, "seamline-fp")
    assert error.writer_schema is not None and error.writer_schema.startswith(
        (writer, "an " + writer)
    )
    assert error.reader_schema == WRITER
    assert (error.fields["partition"], error.fields["offset"]) == (2, 7)
    assert error.fields["invalid"] == 2 and failures(strict) == (0, 2)


def test_a_withdrawn_schema_may_not_be_read_in_strict() -> None:
    withdrawn = (SCHEMAS[ROW].fingerprint,)
    canary = contract(CANARY, tombstones=withdrawn)
    canary.check_records(ROW, [message()])
    assert failures(canary) == (1, 0)
    with pytest.raises(SchemaValidationError) as raised:
        contract(STRICT, tombstones=withdrawn).check_records(ROW, [message()])
    assert raised.value.rule == "tombstoned_schema"


def test_a_silent_registry_stops_no_canary_and_passes_nothing_in_strict() -> None:
    registry = Registry()
    canary = contract(CANARY, registry)
    for offset in range(5):
        canary.check_records(ROW, [message(SILENT, offset=offset)])
    assert failures(canary) == (0, 0) and registry.asked == [(SILENT, False)]
    strict = contract(STRICT, registry)
    for _ in range(2):
        with pytest.raises(TransportError):
            strict.check_records(ROW, [message(SILENT)])
    known = contract(CANARY, registry)
    known.check_records(ROW, [message()])
    state = SubjectState(SUBJECT, STRICT, 2, 1, "ann", "because", "ab" * 32)
    key = SUBJECT.encode()
    known.take([Message(SCHEMA_MODES_TOPIC, 0, 1, 0, key, encode_state(state), ())])
    before = len(registry.asked)
    known.check_records(ROW, [message()])
    assert len(registry.asked) == before, "what is known needs no registry"


def test_in_canary_a_server_that_never_finishes_costs_one_short_question() -> None:
    with serving(lambda path: Reply(200, b" " * 100_000, drip=True)) as server:
        text_of = text_in(World(Cluster("127.0.0.1:9"), server.url))
        with pytest.raises(TransportError, match="no answer in 1 s"):
            text_of(OURS, False)


def rows(count: int) -> ConformedColumns:
    columns = ConformedColumns.empty(count)
    for name in columns.DTYPES:
        getattr(columns, name)[:] = -1 if name.startswith(("trade", "first", "last")) else 1
    return columns


def test_values_that_break_a_rule() -> None:
    columns = rows(4)
    columns.high[2] = 0.5
    columns.volume[3] = np.inf
    batch = [message(offset=offset) for offset in (10, 11, 12, 13)]
    canary, strict = contract(CANARY), contract(STRICT)
    for made in (canary, strict):
        made.check_values(ROW, batch[:2], columns.take(slice(0, 2)))
    canary.check_values(ROW, batch, columns)
    assert failures(canary) == (2, 0)
    with pytest.raises(SchemaValidationError) as raised:
        strict.check_values(ROW, batch, columns)
    error = raised.value
    assert (error.field, error.value, error.rule) == ("high", 0.5, "ohlc_inconsistent")
    assert (error.writer_schema, error.fields["offset"]) == (WRITER, 12)
    # A block is one record, whatever is in it.
    block = contract(CANARY)
    block.check_values(ROW, batch[:1], columns)
    assert failures(block) == (1, 0)
    # One that breaks two rules counts once.
    both = contract(CANARY)
    twice = [each._replace(value=message(OTHER).value) for each in batch]
    both.check_records(ROW, twice)
    both.check_values(ROW, twice, columns)
    assert failures(both) == (4, 0)
