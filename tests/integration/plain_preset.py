"""A preset for tests of the transport, and its topics, without the loader."""

from __future__ import annotations

import uuid

from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.schemas.preset import Preset
from seamline.schemas.topics import ROLES, topic_name

COMPACTED = {"cleanup.policy": "compact"}
APPENDED = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
COMPACTED_ROLES = ("storage", "seals", "positions", "gaps", "chunks", "reports")


def plain_preset(preset_id: str, partitions: int) -> Preset:
    return Preset(
        id=preset_id,
        kind="ohlcv",
        interval_ns=60_000_000_000,
        contract_version="v1",
        partitions=partitions,
        block_rows=240,
        grid_origin_ns=0,
        storage="topic",
        backfill=None,
        live=None,
        conformance_preset="strict-blocking",
        sla_preset="baseline",
        stabilization_bars=2,
        calendar="24/7",
        off_grid="reject",
        authority=("rest_settled", "ws_closed", "rest_fresh", "ws_open"),
        derive_from=None,
        settle_ns=300_000_000_000,
        conformed_retention_ns=14 * 86_400_000_000_000,
    )


def fresh(cluster: Cluster, partitions: int = 4) -> Preset:
    """A preset of a name nobody has, with its topics made."""
    preset = plain_preset(f"ohlcv.t{uuid.uuid4().hex[:10]}.spot.1m", partitions)
    topics = [
        TopicSettings(
            topic_name(preset.id, role),
            partitions,
            1,
            COMPACTED if role in COMPACTED_ROLES else APPENDED,
        )
        for role in ROLES
    ]
    Admin(cluster).create(topics)
    return preset
