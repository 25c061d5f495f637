"""The governance log on a real broker: one chain, whoever writes, and nothing half or twice.

The stack is one of its own: other tests of a session set modes without entries, and some tests here
damage the log.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from governance_laying import lay
from integration.governance_writer import STEPS
from integration.hanging_rows import leave_open, unverified
from seamline.connectors.embedded import single, stack
from seamline.connectors.governance.chain import HEADER_ALONG, HEADER_ATTEMPT, along_of
from seamline.connectors.governance.log import (
    ATTEMPTS,
    TRANSACTIONAL_ID,
    Change,
    GovernanceLog,
    Governed,
    OutRecord,
)
from seamline.connectors.kafka.admin import Admin, TopicSettings, end_offsets
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import (
    IdempotentProducer,
    ProducerSettings,
    TransactionalProducer,
)
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.world import World
from seamline.schemas.audit import GENESIS, Draft, Entry, Head, encode_entry, encode_head
from seamline.schemas.errors import TransportError, UsageError
from seamline.schemas.modes import CANARY, HEAD_KEY, STRICT, SubjectState, encode_state
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC
from seamline.sdk.cli.main import app
from seamline.streams.kernel.protocol import Batch

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))
ONLY_SOAK = pytest.mark.skipif(not SOAK, reason="further places: SEAMLINE_SOAK=1")
TESTS = Path(__file__).resolve().parents[1]
SEED = 6
PATIENCE_S = 120.0
PRODUCER = "seamline.connectors.governance.log.TransactionalProducer"
OUT_TOPIC = "test-governance-out"
OUT = (OUT_TOPIC, 0)
MARKED_TOPIC = "test-governance-marked"
SUBJECT = "seamline.ohlcv.test.1m.live-value"
SHA = "ab" * 32


@dataclass(frozen=True, slots=True)
class Plane:
    """A stack whose governance topics nobody else writes."""

    cluster: Cluster
    world: World
    directory: Path

    @property
    def log(self) -> GovernanceLog:
        return GovernanceLog(self.cluster)


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    with stack.running() as ready:
        cluster = Cluster(ready.bootstrap)
        GovernanceLog(cluster).ensure_topics()
        Admin(cluster).create(TopicSettings(name, 1, 1) for name in (OUT_TOPIC, MARKED_TOPIC))
        yield Plane(cluster, World(cluster, ready.registry_url), ready.directory)


def draft(reason: str, action: str = "register", subject: str = SUBJECT) -> Draft:
    return Draft(action, subject, "ann", reason, SHA, (1, 2), {"n": 1})


def state(version: int, mode: str = STRICT, subject: str = SUBJECT) -> SubjectState:
    return SubjectState(subject, mode, version, 1, "ann", "r", SHA)


def ask(plane: Plane, *command: str) -> tuple[int, str]:
    """What `seamline schema audit` answers, and its exit status."""
    done = CliRunner().invoke(app, ["schema", "audit", *command], env=plane.world.environment())
    return done.exit_code, done.stdout


def verdict(plane: Plane, *options: str) -> dict[str, Any]:
    status, text = ask(plane, "verify", "-o", "json", *options)
    answer: dict[str, Any] = json.loads(text)
    assert status == (0 if answer["ok"] else 1)
    return answer


def an_entry(reason: str) -> Callable[[Governed], Change]:
    return lambda _: Change((draft(reason),))


def a_mode(reason: str, mode: str = STRICT, subject: str = SUBJECT) -> Callable[[Governed], Change]:
    """A change of the mode of `subject` to the next version."""

    def decide(governed: Governed) -> Change:
        held = governed.book.state_of(subject)
        version = 1 if held is None else held.version + 1
        new = state(version, mode, subject)
        return Change((draft(reason, "promote", subject),), (new,))

    return decide


def test_a_change_is_written_whole_and_read_back(plane: Plane) -> None:
    log = plane.log
    before = log.read()

    def decide(governed: Governed) -> Change:
        change = a_mode("r2", CANARY)(governed)
        record = OutRecord(OUT_TOPIC, 0, b"k", b"moved", (("h", b"1"),))
        return replace(change, drafts=(draft("r1"), *change.drafts), records=(record,))

    shown = log.preview(decide, lambda: 10)
    assert log.read().entries == before.entries
    written = log.commit(decide, time.time_ns)
    after = log.read()
    assert [e.reason for e in written] == [e.reason for e in shown] == ["r1", "r2"]
    assert after.entries == (*before.entries, *written)
    assert after.head == written[-1].head
    assert after.book.mode_of(SUBJECT, STRICT) == CANARY
    assert written[1].evidence["in_force"]["mode"] == CANARY
    assert (b"moved", ("h", b"1")) in [(m.value, m.headers[0]) for m in out_of(plane)]
    assert verdict(plane)["why"] == ""
    chain = log.chain()
    assert log.commit(lambda _: Change()) == ()
    assert log.chain().values == chain.values


def out_of(plane: Plane) -> list[Any]:
    fence = end_offsets(plane.cluster, [OUT])
    return [m for batch in read_range(plane.cluster, {OUT: 0}, fence) for m in batch]


def test_a_change_that_cannot_be_writes_nothing(plane: Plane) -> None:
    log = plane.log
    before = log.chain().values
    held = log.read().book.state_of(SUBJECT)
    version = 0 if held is None else held.version
    record = OutRecord(OUT_TOPIC, 0, b"k", b"v")
    for change, parameter in (
        (Change(records=(record,)), "drafts"),
        (Change(states=(state(version + 1),)), "drafts"),
        (Change((draft("r", subject="other"),), (state(version + 1),)), "states"),
        (Change((draft("r"),), (state(version + 2),)), "version"),
        (Change((draft("r"),), (state(version or 7),)), "version"),
        (Change((draft("r"),), records=(record,) * 20_001), "records"),
    ):
        with pytest.raises(UsageError) as raised:
            log.commit(lambda _, change=change: change)  # type: ignore[misc]
        assert raised.value.parameter == parameter

    def failing(_: Governed) -> Change:
        raise TransportError("the registry is down", parameter="registry", value="x")

    with pytest.raises(TransportError, match="registry"):  # not ours to try again
        log.commit(failing)
    missing = OutRecord("test-governance-nobody", 0, b"k", b"v")
    with pytest.raises(TransportError, match="topics apply"):
        log.commit(lambda _: Change((draft("r"),), records=(missing,)))
    assert log.chain().values == before


def test_a_clock_that_goes_back(plane: Plane) -> None:
    now = time.time_ns()
    (first,) = plane.log.commit(an_entry("now"), lambda: now)
    (second,) = plane.log.commit(an_entry("before"), lambda: now - 10**15)
    assert second.time_ns == first.time_ns == now
    assert verdict(plane)["why"] == ""


def writer(plane: Plane, name: str, rounds: int, *fault: str) -> subprocess.Popen[str]:
    module = [sys.executable, "-m", "integration.governance_writer"]
    command = [*module, plane.cluster.bootstrap, name, str(rounds), *fault]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def printed(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    text, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, text.split()


def test_two_writers_at_once_cannot_fork_the_chain(plane: Plane) -> None:
    rounds = 40 if SOAK else 8
    before = len(plane.log.chain().records)
    names = ("two-a", "two-b")
    processes = [writer(plane, name, rounds) for name in names]
    told: list[str] = []
    ended: list[int] = []
    for process in processes:
        status, hashes = printed(process)
        ended.append(status)
        # A writer that lost its place five times gives up and says so; then it wrote nothing.
        assert status == 0 or len(hashes) < rounds
        told += hashes
    assert 0 in ended, "nobody wrote to the end"
    chain = plane.log.chain()
    entries = plane.log.read().entries
    found = [entry.hash for entry in entries[before:]]
    assert sorted(found) == sorted(told)
    assert len(set(found)) == len(chain.records) - before
    for name in names:
        written = [e.reason for e in entries if e.subject == name]
        assert written == [f"{name} {n}" for n in range(len(written))]
    assert verdict(plane)["why"] == ""


def test_a_writer_that_is_killed_anywhere_leaves_all_or_nothing(plane: Plane) -> None:
    every = range(len(STEPS))
    inside = random.Random(SEED).randrange(2, STEPS.index("commit"))
    for step in every if SOAK else (inside, STEPS.index("commit"), STEPS.index("committed")):
        name = f"killed-{step}"
        before = len(plane.log.read().entries)
        process = writer(plane, name, 1, "kill", str(step), OUT_TOPIC)
        status, hashes = printed(process)
        assert (status, hashes) == (-signal.SIGKILL, [])
        # The next writer goes on at once; what the first left open is settled by its coming.
        (entry,) = plane.log.commit(an_entry(f"after {name}"))
        governed = plane.log.read()
        done = STEPS[step] == "committed"
        own = [e for e in governed.entries if e.subject == name]
        assert len(own) == (1 if done else 0)
        assert len(governed.entries) == before + len(own) + 1
        assert governed.entries[-1] == entry
        assert governed.book.mode_of(name, CANARY) == (STRICT if done else CANARY)
        assert [m.value for m in out_of(plane)].count(f"{name} 0".encode()) == len(own)
    assert verdict(plane)["why"] == ""


def test_a_writer_that_stood_still_is_fenced_and_starts_again(plane: Plane) -> None:
    with writer(plane, "stopped", 1, "stop", str(STEPS.index("commit")), OUT_TOPIC) as process:
        try:
            until(lambda: stopped(process.pid), "the writer to stand still in its transaction")
            (between,) = plane.log.commit(an_entry("between"))
            assert plane.log.read().entries[-1] == between
            os.kill(process.pid, signal.SIGCONT)
            status, hashes = printed(process)
        finally:
            process.kill()
    entries = plane.log.read().entries
    assert (status, hashes) == (0, [entries[-1].hash])
    assert (entries[-2], entries[-1].subject) == (between, "stopped")
    assert [m.value for m in out_of(plane)].count(b"stopped 0") == 1
    assert verdict(plane)["why"] == ""


def stopped(pid: int) -> bool:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0] == "T"


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_who_is_fenced_each_time_says_so_in_the_end(plane: Plane) -> None:
    before = plane.log.chain().values
    called = 0

    def fence_us(_: Governed) -> Change:
        nonlocal called
        called += 1
        with TransactionalProducer(plane.cluster, TRANSACTIONAL_ID) as other:
            other.init()
        return Change((draft("never"),))

    with pytest.raises(TransportError, match="another producer took over") as raised:
        plane.log.commit(fence_us)
    assert (called, raised.value.fields["attempts"]) == (ATTEMPTS, ATTEMPTS)
    assert plane.log.chain().values == before


def test_a_commit_whose_answer_is_lost_is_not_written_again(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[bool] = []

    class Deaf(TransactionalProducer):
        """The first commit is made; its answer never comes."""

        def commit(self, timeout_s: float = 30.0) -> Mapping[int, list[int]]:
            offsets = super().commit(timeout_s)
            if not lost:
                lost.append(True)
                raise TransportError("no answer")
            return offsets

    monkeypatch.setattr(PRODUCER, Deaf)
    before = plane.log.read().entries
    asked: list[Governed] = []

    def decide(governed: Governed) -> Change:
        asked.append(governed)
        return Change((draft("once"),))

    written = plane.log.commit(decide)
    assert (len(asked), len(lost)) == (1, 1)
    assert plane.log.read().entries == (*before, *written)


def test_a_broker_lost_in_the_commit(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = threading.Event()

    class Fatal(TransactionalProducer):
        """The broker dies while the first commit is under way."""

        def commit(self, timeout_s: float = 30.0) -> Mapping[int, list[int]]:
            if not killed.is_set():
                self._producer.flush(10)
                single.kill_broker(plane.directory, 1)
                killed.set()
                timeout_s = 3.0
            return super().commit(timeout_s)

    monkeypatch.setattr(PRODUCER, Fatal)
    before = plane.log.read().entries

    def start_again() -> None:
        assert killed.wait(PATIENCE_S)
        for _ in range(3):  # a busy machine may take longer than a start is given
            with suppress(TransportError):
                stack.up(plane.directory)
                return

    starting = threading.Thread(target=start_again)
    starting.start()
    try:
        plane.log.commit(an_entry("through a broken broker"))
    except TransportError as gave_up:  # the broker came too late for five attempts
        starting.join()
        assert gave_up.fields["unknown"]
        if plane.log.read().entries == before:
            plane.log.commit(an_entry("through a broken broker"))
    finally:
        killed.set()
        starting.join()
    entries = plane.log.read().entries
    assert [e.reason for e in entries[len(before) :]] == ["through a broken broker"]
    assert verdict(plane)["why"] == ""


@pytest.mark.parametrize(
    ("unmarked", "stands"),
    [
        pytest.param((AUDIT_TOPIC, SCHEMA_MODES_TOPIC, OUT_TOPIC), False, id="nothing seen"),
        pytest.param((AUDIT_TOPIC, OUT_TOPIC), True, id="head seen"),
        pytest.param((SCHEMA_MODES_TOPIC,), True, id="entry seen", marks=ONLY_SOAK),
        pytest.param((OUT_TOPIC,), True, id="both seen", marks=ONLY_SOAK),
    ],
)
def test_markers_that_a_killed_broker_forgot(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, unmarked: tuple[str, ...], stands: bool
) -> None:
    """What readers see of such a transaction decides what becomes of the rest of it."""
    monkeypatch.setattr("seamline.connectors.governance.unfinished.MARKERS_S", 1.0)
    name = f"unmarked-{secrets.token_hex(3)}"
    governed = plane.log.read()
    (entry,) = plane.log.preview(a_mode("unmarked", subject=name))
    named = ((HEADER_ATTEMPT, name.encode()),)
    along = (*named, (HEADER_ALONG, along_of([OUT])))
    new = encode_state(state(1, subject=name))
    head = encode_head(entry.head)
    batches = (
        Batch(AUDIT_TOPIC, [None], [encode_entry(entry)], along),
        Batch(SCHEMA_MODES_TOPIC, [name.encode(), HEAD_KEY], [new, head], named),
        Batch(OUT_TOPIC, [b"k"], [name.encode()], named),
        Batch(MARKED_TOPIC, [b"k"], [b""]),  # a coordinator takes no empty transaction
    )
    with unverified(plane.cluster):
        leave_open(plane.cluster, TRANSACTIONAL_ID, batches, unmarked, commit=True)
    (after,) = plane.log.commit(an_entry(f"after {name}"))
    entries = plane.log.read().entries
    found = [e for e in entries[len(governed.entries) :] if e.action != "fix"]
    assert found == ([entry, after] if stands else [after])
    fixes = len(entries) - len(governed.entries) - len(found)
    assert fixes == (1 if stands else 0)
    assert plane.log.read().book.mode_of(name, CANARY) == (STRICT if stands else CANARY)
    sent = [m.value for m in out_of(plane)].count(name.encode())
    assert sent > 0 if stands else sent == 0
    assert verdict(plane)["why"] == ""


def test_an_open_transaction_of_somebody_else_is_named(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.connectors.governance.unfinished.MARKERS_S", 0.2)
    monkeypatch.setattr("seamline.connectors.governance.log.ATTEMPTS", 1)
    before = plane.log.chain().values
    patient = ProducerSettings(transaction_timeout_ms=30_000)
    with TransactionalProducer(plane.cluster, "test-governance-other", patient) as other:
        other.init()
        other.begin()
        other.send(AUDIT_TOPIC, 0, None, b"foreign", want="first")
        other._producer.flush(10)
        with pytest.raises(TransportError, match="another producer has an open transaction"):
            plane.log.commit(an_entry("behind it"))
        other.abort()
    monkeypatch.undo()
    plane.log.commit(an_entry("after it"))
    assert len(plane.log.chain().values) == len(before) + 1
    assert verdict(plane)["why"] == ""


def made_again(entries: tuple[Entry, ...], reason: str) -> list[Entry]:
    """The whole chain with another first reason, every hash computed anew."""
    again: list[Entry] = []
    for entry in entries:
        previous = again[-1].hash if again else GENESIS
        told = entry.reason if again else reason
        again.append(replace(entry, previous=previous, reason=told))
    return again


def test_verify_sees_every_change_of_the_topic(plane: Plane) -> None:
    for number in range(3):
        plane.log.commit(a_mode(f"kept {number}"))
    governed, chain = plane.log.read(), plane.log.chain()
    assert governed.head is not None
    entries, states = governed.entries, [*governed.book.states.values()]
    values = [value or b"" for value in chain.values]
    last, kept = len(values) - 1, entries[1].hash
    lay(plane.cluster, values, governed.head, states)
    assert verdict(plane, "--head", kept)["head_asked_is_entry"] == 1
    # A mode that was set past the chain.
    producer = IdempotentProducer(plane.cluster)
    past = encode_state(state(99, CANARY, "past"))
    producer.send(SCHEMA_MODES_TOPIC, b"past", past, partition=0)
    producer.flush()
    assert "of which no entry tells" in verdict(plane)["why"]
    # A topic that would lose its entries, before it has lost one.
    admin = Admin(plane.cluster)
    admin.alter(AUDIT_TOPIC, {"retention.ms": "86400000"})
    assert "retention.ms = 86400000" in plane.log.deletes()
    admin.alter(AUDIT_TOPIC, {"retention.ms": "-1"})
    assert plane.log.deletes() == ""
    # A record that is no entry, then a front that is gone.
    producer.send(AUDIT_TOPIC, None, b"[red]hello", partition=0)
    producer.close()
    assert verdict(plane)["broken"] == [last, last + 1]
    status, text = ask(plane, "log", "-o", "json")
    assert (status, json.loads(text)[-1]["action"]) == (1, "(no entry)")
    client = AdminClient(plane.cluster.client_config())
    for future in client.delete_records([TopicPartition(AUDIT_TOPIC, 0, 2)]).values():
        future.result(timeout=PATIENCE_S)
    assert verdict(plane)["broken"] == [-1, 0]
    # One byte of one entry, in the middle and at the end.
    for at in (1, last):
        place = values[at].index(b'"reason":"') + 10
        changed = bytearray(values[at])
        changed[place] ^= 1
        laid = [*values[:at], bytes(changed), *values[at + 1 :]]
        lay(plane.cluster, laid, governed.head, states)
        answer = verdict(plane)
        assert (answer["broken"], answer["ok"]) == ([at, at + 1], False), answer
        assert answer["offsets"][0] == at
        # It stays visible: the next writer goes on from the head that is kept.
        plane.log.commit(an_entry("after the change"))
        assert verdict(plane)["broken"] == [at, at + 1]
    lay(plane.cluster, values[:-1], governed.head, states)
    assert verdict(plane)["broken"] == [last - 1, last]
    # All of it made again, the head too: only a hash that a person kept tells.
    again = made_again(entries, "another story")
    lay(plane.cluster, [encode_entry(entry) for entry in again], again[-1].head, states)
    assert verdict(plane)["ok"]
    assert "made again" in verdict(plane, "--head", kept)["why"]
    assert ask(plane, "verify", "--head", "abc")[0] == 2


def test_an_export_is_for_an_auditor(plane: Plane) -> None:
    told = Draft("demote", SUBJECT, "ann|*", "line\nbreak <b>", SHA, (0, 10**18), {"n": [1, 2]})
    lay(plane.cluster, [], Head(0, SHA), [])
    assert verdict(plane)["why"] == "the chain is empty, the head that is kept is entry 0"
    client = AdminClient(plane.cluster.client_config())
    for future in client.delete_topics([AUDIT_TOPIC, SCHEMA_MODES_TOPIC]).values():
        future.result(timeout=PATIENCE_S)
    until(lambda: plane.log.chain().head is None, "the topics to be gone")
    assert verdict(plane)["entries"] == 0  # nothing was ever governed: nothing to complain of
    (entry,) = plane.log.commit(lambda _: Change((told,)))
    status, text = ask(plane, "export")
    assert status == 0
    for part in (
        "The chain holds: 1 entries",
        f"## 0. demote {SUBJECT}",
        "- who: ann\\|\\*",
        "- why: line\\\\nbreak \\<b\\>",
        "- window: 1970-01-01T00:00:00Z to 2001-09-09T01:46:40Z",
        "  - n: 1, 2",
        f"- hash: `{entry.hash}`",
    ):
        assert part in text, part
    for command in (("export", "--format", "json"), ("export", "-o", "json")):
        status, text = ask(plane, *command)
        document = json.loads(text)
        assert (status, document["verdict"]["head"]) == (0, entry.hash)
        (record,) = document["records"]
        assert (record["reason"], record["evidence"]) == ("line\nbreak <b>", {"n": [1, 2]})
    status, text = ask(plane, "log", "-o", "json", "--last", "1")
    assert [row["hash"] for row in json.loads(text)] == [entry.hash]
    assert ask(plane, "log", "--subject", "nothing")[0] == 2
