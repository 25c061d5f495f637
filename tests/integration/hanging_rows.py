"""Rows whose transaction is over but whose partitions never get its marker.

Decides: how a test makes on demand what a broker does that is killed between the decision of its
coordinator and the markers. A producer that does not register a partition with its coordinator gets
no marker there; the broker refuses that unless its verification is switched off. Must not know:
what the records mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.streams.kernel.protocol import Batch

VERIFICATION = "transaction.partition.verification.enable"


@contextmanager
def unverified(cluster: Cluster) -> Iterator[None]:
    """The brokers take rows of partitions that their transaction does not name."""
    client = AdminClient({"bootstrap.servers": cluster.bootstrap})

    def alter(kind: AlterConfigOpType) -> None:
        entry = ConfigEntry(VERIFICATION, "false", incremental_operation=kind)
        for number in Admin(cluster).brokers():
            broker = ConfigResource(ResourceType.BROKER, str(number), incremental_configs=[entry])
            for future in client.incremental_alter_configs([broker]).values():
                future.result(timeout=30)

    alter(AlterConfigOpType.SET)
    deadline = time.monotonic() + 30
    while Admin(cluster).broker_setting(VERIFICATION) != "false":  # told, not in force yet
        assert time.monotonic() < deadline
    try:
        yield
    finally:
        alter(AlterConfigOpType.DELETE)


def leave_open(
    cluster: Cluster,
    transactional_id: str,
    batches: Sequence[Batch],
    unmarked: Collection[str],
    *,
    commit: bool,
) -> None:
    """One transaction of `batches` in partition 0, over for its coordinator; the topics of
    `unmarked` get no marker."""

    async def leave() -> None:
        make: Any = AIOKafkaProducer  # untyped
        producer = make(
            bootstrap_servers=cluster.bootstrap,
            transactional_id=transactional_id,
            transaction_timeout_ms=10_000,
        )
        await producer.start()
        try:
            manager = producer._txn_manager
            register = manager.maybe_add_partition_to_txn

            def registered(tp: TopicPartition) -> None:
                if tp.topic not in unmarked:
                    register(tp)

            manager.maybe_add_partition_to_txn = registered
            await producer.begin_transaction()
            sent = []
            for batch in batches:
                for number, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
                    headers = batch.headers
                    own = headers[number] if isinstance(headers, list) else headers
                    sent.append(await producer.send(batch.topic, value, key, 0, headers=list(own)))
            await asyncio.gather(*sent)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()

    asyncio.run(leave())
