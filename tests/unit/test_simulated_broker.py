"""The broker of the simulation does what a Kafka broker does, as far as the plane relies on it."""

from __future__ import annotations

import pytest

from seamline.schemas.errors import ContractError
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.protocol import Batch
from seamline.streams.kernel.simulation.broker import (
    TRANSACTION_TIMEOUT_NS,
    Broker,
    Fenced,
    LogReader,
    Session,
)

TOPIC, OTHER = "t", "u"


def batch(*keys: bytes, topic: str = TOPIC) -> Batch:
    return Batch(topic, list(keys), [b"v" + key for key in keys])


def shown(broker: Broker, topic: str = TOPIC) -> list[bytes | None]:
    log = broker.log(topic, 0)
    return [record.key for record in log.committed(log.begin, log.end)]


def transact(broker: Broker, session: Session, *batches: Batch, markers: int = 99) -> None:
    broker.begin(session)
    for one in batches:
        broker.send(session, 0, one)
    broker.commit(session)
    broker.settle(session, markers)


def test_an_open_transaction_holds_back_what_comes_after_it() -> None:
    broker = Broker(1)
    broker.append(TOPIC, 0, b"before", b"")
    session = broker.init("p")
    broker.begin(session)
    broker.send(session, 0, batch(b"a"))
    broker.append(TOPIC, 0, b"after", b"")
    assert shown(broker) == [b"before"]
    broker.commit(session)
    assert shown(broker) == [b"before"]  # decided, and not shown before its marker
    broker.settle(session)
    assert shown(broker) == [b"before", b"a", b"after"]
    assert broker.log(TOPIC, 0).end == 4  # the marker took an offset


def test_a_commit_shows_in_one_topic_before_another() -> None:
    broker = Broker(1)
    session = broker.init("p")
    transact(broker, session, batch(b"a"), batch(b"b", topic=OTHER), markers=1)
    assert sorted([len(shown(broker)), len(shown(broker, OTHER))]) == [0, 1]
    broker.begin(session)  # the next one waits for the markers of the one before
    assert (shown(broker), shown(broker, OTHER)) == ([b"a"], [b"b"])


def test_init_fences_the_former_producer_and_aborts_what_it_left_open() -> None:
    broker = Broker(1)
    former = broker.init("p")
    broker.begin(former)
    broker.send(former, 0, batch(b"lost"))
    present = broker.init("p")
    assert broker.send(former, 0, batch(b"never")) == []  # nothing is said
    with pytest.raises(Fenced):
        broker.commit(former)
    transact(broker, present, batch(b"kept"))
    assert shown(broker) == [b"kept"]
    assert broker.init("q").epoch == 1  # another id fences nobody here
    transact(broker, present, batch(b"still"))


def test_init_finishes_a_commit_that_was_decided() -> None:
    broker = Broker(1)
    former = broker.init("p")
    transact(broker, former, batch(b"a"), markers=0)
    assert shown(broker) == []
    broker.init("p")
    assert shown(broker) == [b"a"]


def test_a_hung_transaction_is_aborted_and_its_producer_fenced() -> None:
    broker = Broker(1)
    session = broker.init("p")
    broker.begin(session)
    broker.send(session, 0, batch(b"a"))
    broker.now_ns = TRANSACTION_TIMEOUT_NS - NS_PER_S
    broker.expire()
    assert broker.unsettled
    broker.now_ns = TRANSACTION_TIMEOUT_NS
    broker.expire()
    assert not broker.unsettled
    with pytest.raises(Fenced):
        broker.commit(session)
    assert shown(broker) == []


def test_compaction_keeps_the_newest_per_key_and_the_tail() -> None:
    broker = Broker(1)
    session = broker.init("p")
    for key in (b"a", b"b", b"a", b"c", b"a"):
        transact(broker, session, batch(key))
    assert broker.compact(TOPIC, 0, tail=2) == 1
    log = broker.log(TOPIC, 0)
    assert [(r.key, r.offset) for r in log.records] == [
        *((b"b", 2), (b"a", 4), (b"c", 6), (b"a", 8)),
    ]
    assert (log.begin, log.end) == (0, 10)
    reader = LogReader(broker, 0)
    assert [key for key, _, _ in reader.latest(TOPIC)] == [b"b", b"c", b"a"]
    with pytest.raises(ContractError):
        reader.one(TOPIC, 0)
    broker.begin(session)
    broker.send(session, 0, batch(b"b"))
    assert broker.compact(TOPIC, 0, tail=0) == 1  # the second `a`; what is open counts for nothing
    assert [r.key for r in log.records] == [b"b", b"c", b"a", b"b"]


def test_retention_moves_the_beginning_past_the_last_marker() -> None:
    broker = Broker(1)
    session = broker.init("p")
    transact(broker, session, batch(b"a", b"b"))
    broker.now_ns = 100 * NS_PER_S
    assert broker.expire_records(TOPIC, 0, 200 * NS_PER_S) == 0
    assert broker.expire_records(TOPIC, 0, 50 * NS_PER_S) == 2
    log = broker.log(TOPIC, 0)
    assert log.begin == log.end == 3
    reader = LogReader(broker, 0)
    with pytest.raises(ContractError):
        list(reader.range(TOPIC, 2))
    assert list(reader.range(TOPIC, 3)) == list(reader.range(TOPIC, None)) == []


def test_a_fence_stays_where_it_was_taken() -> None:
    broker = Broker(1)
    session = broker.init("p")
    transact(broker, session, batch(b"a"))
    reader = LogReader(broker, 0)
    assert reader.fence(TOPIC) == 2
    transact(broker, session, batch(b"b"))
    assert [[r.key for r in part] for part in reader.range(TOPIC, None)] == [[b"a"]]
    assert reader.one(TOPIC, 2).key == b"b"  # valid beyond the fence
