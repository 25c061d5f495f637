"""Is a broker there, and which cluster is it: one question with a deadline and a cause.

Decides: how a client failure is told to a person. librdkafka reports wrong credentials, a TLS
mismatch or a refused connection only to `error_cb`, while the call itself merely times out; so the
last of these reports is the cause that is shown. Must not know: who started the broker.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from seamline.connectors.kafka.cluster import BOOTSTRAP_VARIABLE, Cluster
from seamline.schemas.errors import TransportError


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the cluster says of itself: its id and the ids of its live brokers."""

    cluster_id: str
    brokers: tuple[int, ...]


def ask_cluster(cluster: Cluster, timeout_s: float = 5.0) -> ClusterFacts:
    """Metadata of `cluster` within `timeout_s`. Raises TransportError that names the cause."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # The client would go on trying until its time is up, whatever it is told.
    if (cause := _unreachable(cluster, timeout_s)) is not None:
        raise _no_answer(cluster, cause)
    causes: list[str] = []

    def remember(error: object) -> None:
        causes[:] = [str(error)]

    config = cluster.client_config() | {"error_cb": remember, "log_level": 0}
    try:
        admin = AdminClient(config)
    except KafkaException as error:
        raise _no_answer(cluster, str(error)) from error
    try:
        metadata = admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        admin.poll(0)
        raise _no_answer(cluster, causes[0] if causes else str(error)) from error
    return ClusterFacts(str(metadata.cluster_id), tuple(sorted(metadata.brokers)))


def _unreachable(cluster: Cluster, timeout_s: float) -> str | None:
    """Why no bootstrap address takes a TCP connection, or None when one does."""
    cause = ""
    for address in cluster.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout_s):
                return None
        except OSError as error:
            cause = error.strerror or str(error)
    return cause


def _no_answer(cluster: Cluster, cause: str) -> TransportError:
    return TransportError(
        f"no Kafka broker answers: {cause}",
        parameter=BOOTSTRAP_VARIABLE,
        value=cluster.bootstrap,
        fix="Check the address and the SEAMLINE_KAFKA_* settings, or start one: seamline up",
    )
