"""Settings of our Kafka clients, the states of a producer, and what an error means."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import (
    CAUSES_KEPT,
    LEADER_MOVES,
    PASSING,
    Causes,
    FencedError,
    error_of,
    moved,
    transport_error,
)
from seamline.connectors.kafka.producer import (
    ProducerSettings,
    TransactionalProducer,
    idempotent_config,
    transactional_config,
)
from seamline.connectors.kafka.reader import (
    UNCOMMITTED,
    ReaderSettings,
    Tail,
    consumer_config,
    read_range,
)
from seamline.schemas.errors import TransportError, UsageError

TASKS = Path("/proc/self/task")
# Nothing listens there: these tests contact nobody.
NOWHERE = Cluster("127.0.0.1:1", {"security.protocol": "plaintext"})


def test_producers_never_lose_order_or_results() -> None:
    settings = ProducerSettings(linger_ms=3, queue_messages=7, queue_kbytes=8)
    for config in (
        transactional_config(NOWHERE, "seamline.p.conform.0", settings),
        idempotent_config(NOWHERE, settings),
    ):
        assert config["partitioner"] == "murmur2_random"
        assert config["acks"] == "all"
        assert config["enable.idempotence"] is True
        assert config["linger.ms"] == 3
        assert config["queue.buffering.max.messages"] == 7
        assert config["queue.buffering.max.kbytes"] == 8
        assert config["security.protocol"] == "plaintext"
        assert "delivery.report.only.error" not in config


def test_a_transaction_is_bounded_and_retries_fast() -> None:
    config = transactional_config(NOWHERE, "seamline.p.conform.0", ProducerSettings())
    assert config["transactional.id"] == "seamline.p.conform.0"
    assert config["transaction.timeout.ms"] == 10_000
    assert config["retry.backoff.ms"] == 10


def test_readers_read_committed_and_no_group_decides_anything() -> None:
    config = consumer_config(NOWHERE, ReaderSettings())
    assert config["isolation.level"] == "read_committed"
    assert consumer_config(NOWHERE, UNCOMMITTED)["isolation.level"] == "read_uncommitted"
    assert config["enable.partition.eof"] is True
    assert config["fetch.queue.backoff.ms"] == 5
    assert config["enable.auto.commit"] is False
    assert config["auto.offset.reset"] == "error"


def test_a_producer_refuses_what_its_state_does_not_allow() -> None:
    producer = TransactionalProducer(NOWHERE, "seamline.p.conform.0")
    for attempt in (
        producer.begin,
        producer.commit,
        producer.abort,
        lambda: producer.send("t", 0, None, b""),
    ):
        with pytest.raises(UsageError, match="is new"):
            attempt()
    producer.close()
    producer.close()
    with pytest.raises(UsageError, match="Make a new producer"):
        producer.init()


def test_an_init_that_nobody_answers_names_the_cause() -> None:
    producer = TransactionalProducer(NOWHERE, "seamline.p.conform.0")
    with pytest.raises(TransportError, match="Connection refused") as raised:
        producer.init(timeout_s=1.5)
    assert raised.value.retriable
    producer.close()


def test_a_closed_producer_has_no_client_left_that_could_fence_the_next() -> None:
    before = set(TASKS.iterdir())
    producer = TransactionalProducer(NOWHERE, "seamline.p.conform.0")
    with pytest.raises(TransportError):
        producer.init(timeout_s=0.2)
    assert set(TASKS.iterdir()) - before
    producer.close()
    assert not set(TASKS.iterdir()) - before


def test_a_fatal_error_inside_a_callback_is_still_that_error() -> None:
    fatal = KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = fatal
    assert error_of(wrapped).code() == KafkaError._FENCED
    assert error_of(fatal).fatal()
    assert error_of(SystemError("something else")).code() == KafkaError._FAIL


def test_fenced_refused_and_passing_errors_are_told_apart() -> None:
    def meaning(code: int) -> TransportError:
        return transport_error(KafkaError(code), doing="commit", cluster=NOWHERE)

    for code in (
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    ):
        assert isinstance(meaning(code), FencedError)
        assert not meaning(code).retriable
    for code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.NOT_ENOUGH_REPLICAS):
        assert meaning(code).retriable
    for code in (
        KafkaError._AUTHENTICATION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    ):
        assert not meaning(code).retriable


def test_what_passes_while_brokers_come_and_go_is_worth_another_try() -> None:
    for code in PASSING:
        error = transport_error(KafkaError(code), doing="read", cluster=NOWHERE)
        assert error.retriable, error
        assert not isinstance(error, FencedError)
        assert moved(error) is (code in LEADER_MOVES)
    lacking = transport_error(
        KafkaError(KafkaError.NOT_ENOUGH_REPLICAS), doing="send", cluster=NOWHERE
    )
    assert "seamline up" in str(lacking)
    full = transport_error(
        KafkaError(KafkaError.KAFKA_STORAGE_ERROR), doing="send", cluster=NOWHERE
    )
    assert "make room" in str(full)


def test_a_timeout_is_told_with_the_refusal_that_caused_it() -> None:
    causes = Causes()
    causes(KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: bad password"))
    for _ in range(CAUSES_KEPT - 1):
        causes(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    error = transport_error(
        KafkaError(KafkaError._TIMED_OUT), doing="init", cluster=NOWHERE, causes=causes
    )
    assert "bad password" in str(error)
    assert not error.retriable
    assert error.fields["code"] == "_AUTHENTICATION"
    causes.clear()
    assert causes.text() is None


def test_a_tail_refuses_what_is_no_offset_and_a_second_start() -> None:
    with Tail(NOWHERE) as tail:
        with pytest.raises(UsageError, match="not an offset"):
            tail.add(("t", 0), -1001)
        tail.add(("t", 0), 5)
        assert tail.position(("t", 0)) == 5
        assert tail.reached(("t", 0), 5)
        assert not tail.reached(("t", 0), 6)
        with pytest.raises(UsageError, match="read already"):
            tail.add(("t", 0), 6)


def test_a_range_without_anything_to_read_asks_nobody() -> None:
    assert list(read_range(NOWHERE, {("t", 0): 7}, {("t", 0): 7})) == []
    with pytest.raises(UsageError, match="different partitions"):
        list(read_range(NOWHERE, {("t", 0): 0}, {("t", 1): 7}))
