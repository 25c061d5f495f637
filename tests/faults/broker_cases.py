"""The cases of brokers: killed and started again, the leader of a busy partition, one after the
other, and a full disk.

Decides: which broker, when, for how long. Must not know: pytest, the page.
"""

from __future__ import annotations

import random
import resource
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from faults.broker_load import Load
from faults.case import Case, Ground, Outcome
from seamline.connectors.embedded.single import (
    await_in_sync,
    kill_broker,
    rolling_restart,
    start_broker,
)
from seamline.connectors.embedded.stack import endpoints, status, up
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer, ProducerSettings
from seamline.schemas.errors import TransportError

KILLED = "SIGKILL of the broker, started again"
LEADER = "SIGKILL of the broker that leads the busiest partition, started again"
ROLLED = "all three brokers restarted in turn, each when all replicas are in sync"
FULL = "no file of the broker may grow, until it ends by itself; then room again"
LEAD_S = 2.0
ENDS_S = 60.0
ROOM_BYTES = 256 << 10
FILL_BATCH, FILL_BYTES = 100, 4_096


def killed(ground: Ground, seed: int, *, times: int = 2) -> Outcome:
    """The only broker: everything stands still until it is back."""
    rng, began = random.Random(seed), time.monotonic()
    story, home = [f"seed {seed}"], _stack(ground)
    with Load(ground) as load:
        for _ in range(times):
            before_s, down_s = rng.uniform(1.0, LEAD_S + 2), rng.uniform(0.0, 4.0)
            time.sleep(before_s)
            kill_broker(home, 1)
            time.sleep(down_s)
            start_broker(home, 1)
            story.append(f"killed after {before_s:.1f} s, down {down_s:.1f} s and its start")
        time.sleep(LEAD_S)
        return load.settle(seed, "; ".join(story), Counter({"broker-kill": times}), began)


def one_of_three(ground: Ground, seed: int, *, kills: int = 2, rolls: int = 1) -> Outcome:
    """The others take over within the broker's session. Then all three are restarted in turn."""
    rng, began = random.Random(seed), time.monotonic()
    story, home = [f"seed {seed}"], _stack(ground)
    admin = Admin(ground.world.cluster)
    with Load(ground) as load:
        for _ in range(kills):
            before_s, down_s = rng.uniform(1.0, LEAD_S + 2), rng.uniform(4.0, 8.0)
            time.sleep(before_s)
            role = rng.choice(("live", "backfill", "conformed"))
            number = busiest_leader(admin, load.fresh.topic(role), load.fresh.preset.partitions)
            kill_broker(home, number)
            time.sleep(down_s)
            start_broker(home, number)
            await_in_sync(ground.world.cluster.bootstrap, 3)
            story.append(f"leader {number} of {role} killed after {before_s:.1f} s, {down_s:.1f} s")
        for _ in range(rolls):
            time.sleep(LEAD_S)
            rolling_restart(home)
            story.append("all three restarted in turn")
        time.sleep(LEAD_S)
        struck = Counter({"leader-kill": kills, "rolling-restart": rolls})
        return load.settle(seed, "; ".join(story), struck, began)


def disk_full(ground: Ground, seed: int) -> Outcome:
    """No file of the broker may grow any more, as on a full disk: it ends. Then there is room."""
    rng, began = random.Random(seed), time.monotonic()
    home = _stack(ground)
    with Load(ground) as load:
        before_s, down_s = rng.uniform(1.0, LEAD_S + 2), rng.uniform(1.0, 4.0)
        time.sleep(before_s)
        fill(ground.world.cluster, f"{load.fresh.preset.id}.fill", home)
        load.await_that(lambda: status(home).kafka == "stopped", ENDS_S, "the broker's end")
        told = status(home).brokers[0].cause or ""
        if "may not grow" not in told:
            load.wrong.append(f"status does not say why the broker ended: {told!r}")
        time.sleep(down_s)
        up(home)
        time.sleep(LEAD_S)
        story = f"seed {seed}; disk full after {before_s:.1f} s, down {down_s:.1f} s and its start"
        return load.settle(seed, story, Counter({"disk-full": 1}), began)


def let_no_file_grow(home: Path) -> None:
    """Its log may, by a little: it is to say why it ends."""
    pid = endpoints(home, {}).kafka_pid
    limit = (home / "kafka" / "kafka.log").stat().st_size + ROOM_BYTES
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def fill(cluster: Cluster, topic: str, home: Path) -> None:
    """Write to another topic until the broker takes no more.

    The topic is there before the disk is full: what cannot be made stays offline, and only what
    cannot be appended ends the broker.
    """
    Admin(cluster).create([TopicSettings(topic, 1, 1)])
    settings = ProducerSettings(message_timeout_ms=5_000, queue_messages=1_000)
    producer = IdempotentProducer(cluster, settings)
    producer.send(topic, None, b"first", partition=0)
    producer.flush()
    let_no_file_grow(home)
    deadline = time.monotonic() + ENDS_S
    with suppress(TransportError):
        while time.monotonic() < deadline:
            for _ in range(FILL_BATCH):
                producer.send(topic, None, bytes(FILL_BYTES), partition=0)
            producer.flush(5.0)
    with suppress(TransportError):
        producer.close(1.0)


def busiest_leader(admin: Admin, topic: str, partitions: int) -> int:
    """The broker that leads the longest partition of a topic."""
    ends = admin.end_offsets([(topic, n) for n in range(partitions)], "read_uncommitted")
    longest = max(ends, key=lambda tp: (ends[tp], tp))
    return admin.leaders([topic])[longest]


def _stack(ground: Ground) -> Path:
    assert ground.stack is not None, "this case needs an embedded stack of its own"
    return ground.stack


CASES = (
    Case(
        "broker",
        "the only broker killed and started again under load, a reader throughout",
        killed,
        seeds=5,
        faults={"broker-kill": KILLED},
        own_stack=True,
    ),
    Case(
        "full-disk",
        "the only broker's disk full under load, a reader throughout",
        disk_full,
        seeds=3,
        faults={"disk-full": FULL},
        own_stack=True,
    ),
    Case(
        "brokers",
        "three brokers under load, a reader throughout: the leader of the busiest partition killed "
        "and started again, then all three restarted in turn",
        one_of_three,
        seeds=5,
        faults={"leader-kill": LEADER, "rolling-restart": ROLLED},
        own_stack=True,
        brokers=3,
    ),
)
