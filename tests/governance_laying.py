"""The governance topics as somebody would leave them who owns the cluster.

Decides: that both topics are made anew and hold this content and no other. Must not know: whether
the content is a chain that holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from confluent_kafka.admin import AdminClient

from e2e.workers import await_that
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.schemas.audit import Head, encode_head
from seamline.schemas.modes import HEAD_KEY, SubjectState, encode_state
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC

PATIENCE_S: Final = 120.0


def lay(
    cluster: Cluster, values: Sequence[bytes], head: Head, states: Iterable[SubjectState]
) -> None:
    """`values`: of the audit log; `head` and `states`: of the control topic."""
    client = AdminClient(cluster.client_config())
    names = [AUDIT_TOPIC, SCHEMA_MODES_TOPIC]
    for future in client.delete_topics(names).values():
        future.result(timeout=PATIENCE_S)
    await_that(lambda: not Admin(cluster).partitions(names), PATIENCE_S, "the topics to be gone")
    GovernanceLog(cluster).ensure_topics()
    producer = IdempotentProducer(cluster)
    for value in values:
        producer.send(AUDIT_TOPIC, None, value, partition=0)
    for each in states:
        producer.send(SCHEMA_MODES_TOPIC, each.subject.encode(), encode_state(each), partition=0)
    producer.send(SCHEMA_MODES_TOPIC, HEAD_KEY, encode_head(head), partition=0)
    producer.close()
