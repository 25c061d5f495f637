"""The evidence of a rehearsal as the governance log has it, for tests of what follows from it.

Decides: nothing of how a topic is rehearsed: it says that two days up to now were read to the end
of the topic, with as many blocked records as it is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from preset_fixture import FreshPreset
from seamline.connectors.governance.log import Change, GovernanceLog
from seamline.connectors.kafka.admin import Admin
from seamline.schemas.audit import Draft
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.rehearsal import Evidence, Traffic

WINDOW_NS = 48 * 3_600 * NS_PER_S
RECORDS = 1_000


def write_rehearsal(fresh: FreshPreset, by_rule: Mapping[str, int] | None = None) -> None:
    """Of the live subject. Returns when readers see it."""
    topic, log, now_ns = fresh.topic("live"), GovernanceLog(fresh.world.cluster), time.time_ns()
    subject = f"{topic}-value"
    state = log.read().book.state_of(subject)
    tps = [(topic, n) for n in range(fresh.preset.partitions)]
    ends = Admin(fresh.world.cluster).end_offsets(tps)
    blocked = sum((by_rule or {}).values())
    split = {"one": blocked} if blocked else {}
    evidence = Evidence(
        subject=subject,
        topic=topic,
        bundle_sha256=BUNDLE_SHA256,
        since_ns=now_ns - WINDOW_NS,
        window_ns=WINDOW_NS,
        ended_ns=now_ns,
        records=RECORDS,
        bars=RECORDS,
        blocked_records=blocked,
        blocked_in_canary=0,
        blocked_bars=0,
        missing_bars=0,
        stale_minutes=0.0,
        by_rule=by_rule or {},
        by_schema=split,
        by_producer=split,
        by_symbol=split,
        samples={},
        partitions={n: (0, ends[topic, n]) for n in range(len(tps))},
        traffic=Traffic(now_ns - WINDOW_NS, now_ns, RECORDS, NS_PER_S),
        mode_version=0 if state is None else state.version,
    )
    draft = Draft("rehearse", subject, "ann", "for a test", BUNDLE_SHA256, None, evidence.to_json())
    log.commit(lambda _: Change((draft,)), time.time_ns)
