"""Our producers and readers on a real broker: what is committed is read once, nothing else is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from seamline.connectors.kafka.admin import (
    TP,
    Admin,
    TopicSettings,
    begin_offsets,
    end_offsets,
)
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import (
    IdempotentProducer,
    ProducerSettings,
    TransactionalProducer,
    Want,
)
from seamline.connectors.kafka.reader import (
    Message,
    PointReader,
    Tail,
    read_one,
    read_range,
)
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.topics import partition_of_key

HEADERS = (("seamline-fp", b"0123456789abcdef"),)
MakeTopic = Callable[..., str]


@pytest.fixture
def make_topic(world: World) -> MakeTopic:
    def make(partitions: int = 1, **config: str) -> str:
        name = f"test-log-{secrets.token_hex(6)}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        Admin(world.cluster).create([TopicSettings(name, partitions, 1, settings)])
        return name

    return make


@pytest.fixture
def make_producer(world: World) -> Iterator[Callable[..., TransactionalProducer]]:
    made: list[TransactionalProducer] = []

    def make(
        transactional_id: str | None = None, settings: ProducerSettings | None = None
    ) -> TransactionalProducer:
        chosen = transactional_id or f"test-{secrets.token_hex(6)}"
        producer = TransactionalProducer(world.cluster, chosen, settings)
        made.append(producer)
        producer.init()
        return producer

    yield make
    for producer in made:
        producer.close()


def values_of(cluster: Cluster, tp: TP) -> list[bytes | None]:
    """All that a reader sees up to the fence of now."""
    fence = end_offsets(cluster, [tp])
    return [m.value for batch in read_range(cluster, {tp: 0}, fence) for m in batch]


def until_fence(cluster: Cluster, tp: TP, offset: int) -> None:
    """A commit that has returned shows in a fence only when its markers are written."""
    admin, deadline = Admin(cluster), time.monotonic() + 10
    while admin.end_offsets([tp])[tp] < offset:
        assert time.monotonic() < deadline, f"the fence of {tp} never came to {offset}"


def test_a_batch_goes_in_order_with_its_headers_and_offsets(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic(2)
    # A local queue far smaller than the batch: a full queue is waited for.
    producer = make_producer(settings=ProducerSettings(queue_messages=100))
    count = 5_000
    keys = [b"k%d" % (i % 7) for i in range(count)]
    values = [b"v%d" % i for i in range(count)]
    producer.begin()
    assert producer.send_many(topic, 1, keys, values, HEADERS, want="all") == 0
    assert producer.send_many(topic, 0, [b"a", b"b"], [b"1", None], want="first") == 1
    each = [(("n", b"0"),), ()]
    assert producer.send_many(topic, 0, [None, b"d"], [b"3", b"4"], each_headers=each) == 2
    offsets = producer.commit()
    assert offsets == {0: list(range(count)), 1: [0]}
    until_fence(world.cluster, (topic, 1), count + 1)
    fences = end_offsets(world.cluster, [(topic, 0), (topic, 1)])
    read: dict[int, list[Message]] = {0: [], 1: []}
    for batch in read_range(world.cluster, dict.fromkeys(fences, 0), fences, max_records=1_000):
        assert len(batch) <= 1_000
        for message in batch:
            read[message.partition].append(message)
    assert [m.value for m in read[1]] == values
    assert [m.key for m in read[1]] == keys
    assert {m.headers for m in read[1]} == {HEADERS}
    assert [(m.key, m.value, m.headers) for m in read[0]] == [
        (b"a", b"1", ()),
        (b"b", None, ()),
        (None, b"3", (("n", b"0"),)),
        (b"d", b"4", ()),
    ]


def test_nobody_sees_an_aborted_transaction(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    producer = make_producer()
    for value, keep in ((b"1", True), (b"2", False), (b"3", True), (b"4", False)):
        producer.begin()
        producer.send(topic, 0, b"k", value)
        if keep:
            producer.commit()
        else:
            producer.abort()
    until_fence(world.cluster, tp, 8)
    assert values_of(world.cluster, tp) == [b"1", b"3"]


def test_an_open_transaction_holds_the_fence_and_nothing_passes_it(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    plain = IdempotentProducer(world.cluster)
    plain.send(topic, b"k", b"before")
    plain.flush()
    producer = make_producer(settings=ProducerSettings(queue_messages=10))
    producer.begin()
    producer.send_many(topic, 0, [b"k"] * 50, [b"open"] * 50)  # 40 of them must have left
    plain.send(topic, b"k", b"after")
    plain.close()
    assert end_offsets(world.cluster, [tp])[tp] == 1
    assert end_offsets(world.cluster, [tp], "read_uncommitted")[tp] >= 42
    assert values_of(world.cluster, tp) == [b"before"]
    with Tail(world.cluster) as tail:
        tail.add(tp, 0)
        assert [m.value for m in drained(tail, tp, 1)] == [b"before"]
        assert not tail.reached(tp, 2)
        producer.commit()
        seen = drained(tail, tp, 52)
        assert sorted(m.value or b"" for m in seen) == [b"after", *[b"open"] * 50]


def drained(tail: Tail, tp: TP, fence: int) -> list[Message]:
    seen: list[Message] = []
    deadline = time.monotonic() + 10
    while not tail.reached(tp, fence):
        assert time.monotonic() < deadline, f"{tp} stays at {tail.position(tp)}"
        seen += tail.poll(1.0)
    return seen


def test_a_tail_steps_over_markers_and_aborted_records(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    producer = make_producer()
    with Tail(world.cluster) as tail:
        tail.add(tp, 0)
        for _ in range(3):
            producer.begin()
            producer.send(topic, 0, b"k", b"gone")
            producer.abort()
        until_fence(world.cluster, tp, 6)
        assert drained(tail, tp, 6) == []
        assert tail.at_end(tp)


def test_a_tail_answers_at_once_when_something_is_there(
    world: World, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    producer = IdempotentProducer(world.cluster)
    with Tail(world.cluster) as tail:
        tail.add(tp, 0)
        began = time.monotonic()
        assert tail.poll(0.3) == [] or tail.at_end(tp)
        tail.poll(0.3)
        assert time.monotonic() - began >= 0.3  # it waits instead of spinning
        for i in range(3):
            producer.send(topic, b"k", b"%d" % i)
        producer.flush()
        began = time.monotonic()
        assert [m.value for m in drained(tail, tp, 3)] == [b"0", b"1", b"2"]
        assert time.monotonic() - began < 5
    producer.close()


def test_a_newer_owner_fences_an_open_and_an_idle_one(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    name = f"test-{secrets.token_hex(6)}"
    first = make_producer(name)
    first.begin()
    first.send(topic, 0, b"k", b"of the first")
    second = make_producer(name)  # settles what the first left open
    with pytest.raises(FencedError):
        first.commit()
    with pytest.raises(UsageError, match="Make a new producer"):
        first.begin()
    third = make_producer(name)
    second.begin()  # idle when it was fenced: only the commit tells
    second.send(topic, 0, b"k", b"of the second")
    with pytest.raises(FencedError):
        second.commit()
    third.begin()
    third.send(topic, 0, b"k", b"of the third")
    third.commit()
    until_fence(world.cluster, tp, end_offsets(world.cluster, [tp], "read_uncommitted")[tp])
    assert values_of(world.cluster, tp) == [b"of the third"]


@pytest.mark.parametrize("want", ["none", "first"])
def test_a_record_that_is_not_delivered_fails_the_commit(
    world: World,
    make_topic: MakeTopic,
    make_producer: Callable[..., TransactionalProducer],
    want: Want,
) -> None:
    topic = make_topic(max_message_bytes="1000")
    producer = make_producer()
    producer.begin()
    producer.send_many(topic, 0, [b"k"] * 3, [b"1", b"x" * 5_000, b"3"], want=want)
    with pytest.raises(TransportError, match="too large") as raised:
        producer.commit()
    assert not raised.value.retriable
    producer.abort()
    with pytest.raises(UsageError, match="Make a new producer"):
        producer.begin()
    assert values_of(world.cluster, (topic, 0)) == []


def test_a_topic_that_does_not_exist_fails_the_commit_and_is_named(
    make_producer: Callable[..., TransactionalProducer], make_topic: MakeTopic, world: World
) -> None:
    producer = make_producer()
    producer.begin()
    producer.send_many("test-log-nobody", 0, [b"k"] * 2, [b"v"] * 2)
    with pytest.raises(TransportError, match="topics apply") as raised:
        producer.commit()
    assert not raised.value.retriable
    with pytest.raises(TransportError, match="no such topic"):
        end_offsets(world.cluster, [("test-log-nobody", 0)])
    topic = make_topic(1)
    with pytest.raises(TransportError, match="no partition 1"):
        begin_offsets(world.cluster, [(topic, 1)])


def test_singly_sent_records_are_counted_and_partitioned_as_java_does(
    world: World, make_topic: MakeTopic
) -> None:
    topic = make_topic(5)
    producer = IdempotentProducer(world.cluster)
    keys = [f"S{i}/USDT".encode() for i in range(40)]
    for key in keys:
        producer.send(topic, key, b"v", HEADERS)
    producer.send(topic, None, None, partition=3)
    producer.close()
    assert (producer.counts.sent, producer.counts.delivered, producer.unsettled) == (41, 41, 0)
    fences = end_offsets(world.cluster, [(topic, p) for p in range(5)])
    read = [m for b in read_range(world.cluster, dict.fromkeys(fences, 0), fences) for m in b]
    found = {m.key: m.partition for m in read if m.key is not None}
    assert found == {key: partition_of_key(key, 5) for key in keys}
    assert [m.partition for m in read if m.key is None] == [3]


def test_a_failed_delivery_fails_the_flush_once_and_the_producer_goes_on(
    world: World, make_topic: MakeTopic
) -> None:
    topic = make_topic(max_message_bytes="1000")
    producer = IdempotentProducer(world.cluster)
    producer.send(topic, b"k", b"x" * 5_000)
    with pytest.raises(TransportError, match="too large"):
        producer.flush()
    assert producer.counts.failed == 1
    producer.send(topic, b"k", b"fits")
    producer.close()
    assert producer.counts.delivered == 1
    assert values_of(world.cluster, (topic, 0)) == [b"fits"]


def test_a_range_over_a_compacted_topic_with_holes(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic(
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="100",
    )
    tp = (topic, 0)
    producer = make_producer()
    deadline = time.monotonic() + 60
    rounds = 0
    while True:
        producer.begin()
        producer.send_many(topic, 0, [b"a", b"b"], [b"a%d" % rounds, b"b%d" % rounds])
        producer.commit()
        rounds += 1
        fence = end_offsets(world.cluster, [tp])
        read = [m for batch in read_range(world.cluster, {tp: 0}, fence) for m in batch]
        newest = {m.key: m.value for m in read}
        assert set(newest) <= {b"a", b"b"}
        # The cleaner has been, as far as the first record: offsets are not dense.
        if len(read) < 2 * (rounds - 1) and read[0].offset > 0:
            break
        assert time.monotonic() < deadline, "the broker never compacted"
    assert begin_offsets(world.cluster, [tp])[tp] == 0  # says nothing about the first record
    with pytest.raises(ContractError, match="no committed record"):
        read_one(world.cluster, topic, 0, 0)
    last = read[-1]
    assert read_one(world.cluster, topic, 0, last.offset) == last


def test_single_records_in_any_order_and_those_that_are_not_there(
    world: World, make_topic: MakeTopic, make_producer: Callable[..., TransactionalProducer]
) -> None:
    topic = make_topic(2)
    producer = make_producer()
    producer.begin()
    producer.send_many(topic, 0, [b"k"] * 100, [b"%d" % i for i in range(100)])
    producer.send(topic, 1, b"k", b"other")
    producer.commit()
    until_fence(world.cluster, (topic, 0), 101)
    until_fence(world.cluster, (topic, 1), 2)
    with PointReader(world.cluster) as reader:
        for offset in (99, 0, 50, 49, 51, 0, 99):
            assert reader.read(topic, 0, offset).value == b"%d" % offset
        assert reader.read(topic, 1, 0).value == b"other"
        for offset in (100, 101):  # the marker, and what is not written yet
            with pytest.raises(ContractError, match="no committed record"):
                reader.read(topic, 0, offset)
        with pytest.raises(ContractError, match="beyond the end"):
            reader.read(topic, 0, 5_000)
        assert reader.read(topic, 0, 7).value == b"7"


def test_a_start_that_is_no_longer_retained_names_the_missing_interval(
    world: World, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    tp = (topic, 0)
    producer = IdempotentProducer(world.cluster)
    for i in range(10):
        producer.send(topic, b"k", b"%d" % i)
    producer.close()
    client = AdminClient(world.cluster.client_config())
    for future in client.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(timeout=10)
    assert begin_offsets(world.cluster, [tp])[tp] == 4
    with pytest.raises(ContractError, match="0 to 4 are no longer retained") as raised:
        list(read_range(world.cluster, {tp: 0}, {tp: 10}))
    assert (raised.value.fields["offset"], raised.value.fields["begin"]) == (0, 4)
    read = [m.value for b in read_range(world.cluster, {tp: 4}, {tp: 10}) for m in b]
    assert read == [b"%d" % i for i in range(4, 10)]


def test_wrong_credentials_are_named_as_the_cause(world: World) -> None:
    # The broker speaks no SASL on this listener; the client says so only to its error callback.
    wrong = Cluster(
        world.cluster.bootstrap,
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "u",
            "sasl.password": "p",
        },
    )
    producer = TransactionalProducer(wrong, "test-wrong-credentials")
    for attempt in (
        lambda: producer.init(20),
        lambda: end_offsets(wrong, [("t", 0)]),
        lambda: list(read_range(wrong, {("t", 0): 0}, {("t", 0): 1})),
    ):
        began = time.monotonic()
        with pytest.raises(TransportError, match="SASL") as raised:
            attempt()
        assert not raised.value.retriable
        assert time.monotonic() - began < 10
    producer.close()
