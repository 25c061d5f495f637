"""Modes of subjects changed on a real broker and a real registry: what wins, what is refused.

The rehearsals are written down here as evidence; how they are made is held elsewhere.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from e2e.workers import await_that
from preset_fixture import FreshPreset, MakePreset
from rehearsed import write_rehearsal
from seamline.connectors.governance.budget_guard import BudgetGuard
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.governance.promoting import Outcome, Promoting
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import subjects_of
from seamline.schemas.audit import verify
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError, SeamlineError, TransportError, UsageError
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.schemas.times import NS_PER_S
from seamline.sdk.cli.main import app
from seamline.streams.kernel.failure_detail import Checked
from seamline.streams.kernel.promotion import PromotionPolicy

HOUR_NS = 3_600 * NS_PER_S
LEVEL = "BACKWARD_TRANSITIVE"
POLICY = PromotionPolicy(canary_window_ns=2 * NS_PER_S)


class Plane:
    """One preset with its live subject, and the governance of it."""

    def __init__(self, fresh: FreshPreset, client: RemoteSchemaRegistryClient) -> None:
        self.fresh, self.client = fresh, client
        self.subject = next(s for s in subjects_of(fresh.preset) if s.role == "live")
        self.name = self.subject.name
        self.log = GovernanceLog(fresh.world.cluster)
        self.promoting = self.of("ann")

    def of(self, actor: str, client: RemoteSchemaRegistryClient | None = None) -> Promoting:
        return Promoting(self.fresh.world.cluster, client or self.client, actor=actor)

    @property
    def state(self) -> SubjectState | None:
        return self.log.read().book.state_of(self.name)

    def stands(self) -> tuple[str, int, str | None]:
        state = self.state
        level = self.client.compatibility(self.name)
        return (CANARY, 0, level) if state is None else (state.mode, state.version, level)

    def entries(self) -> list[str]:
        found = self.log.read().entries
        return [e.action for e in found if e.subject == self.name and e.action != "rehearse"]

    def rehearse(self, by_rule: Mapping[str, int] | None = None) -> None:
        write_rehearsal(self.fresh, by_rule)

    def promote(self, policy: PromotionPolicy = POLICY, **more: Any) -> Outcome:
        accepted = more.pop("accepted", {})
        return self.promoting.promote(self.subject, "clean", policy, accepted, **more)

    def refused(self, policy: PromotionPolicy = POLICY, **more: Any) -> list[str]:
        before = self.stands(), len(self.log.read().entries)
        with pytest.raises(ContractError) as raised:
            self.promote(policy, **more)
        assert (self.stands(), len(self.log.read().entries)) == before
        return [each["field"] for each in raised.value.fields["refusals"]]


@pytest.fixture
def plane(fresh_preset: MakePreset) -> Iterator[Plane]:
    fresh = fresh_preset(partitions=2)
    client = RemoteSchemaRegistryClient(fresh.world.registry_url, fresh.world.registry_auth)
    yield Plane(fresh, client)
    client.close()


def test_only_evidence_makes_a_subject_strict_and_each_way_back_is_an_entry(plane: Plane) -> None:
    assert plane.refused() == ["rehearsal"]
    with pytest.raises(ContractError, match="nothing to go back to"):
        plane.promoting.rollback(plane.subject, "undo", POLICY)
    plane.rehearse(by_rule={"high_below_low": 3})
    assert plane.refused() == ["by_rule.high_below_low"]
    assert plane.refused(accepted={"high_below_low": 2}) == ["by_rule.high_below_low"]
    week = PromotionPolicy(canary_window_ns=168 * HOUR_NS)
    plane.rehearse()
    assert plane.refused(week) == ["canary_window", "traffic.first_ns"]
    plane.rehearse(by_rule={"high_below_low": 3})

    shown = plane.promote(accepted={"high_below_low": 3}, dry_run=True)
    assert shown.entry is None and shown.draft is not None and plane.entries() == []
    assert plane.stands() == (CANARY, 0, "NONE")
    done = plane.promote(accepted={"high_below_low": 3})
    assert done.entry is not None and done.left == ()
    assert done.entry.evidence["accepted"] == {"high_below_low": 3}
    assert (done.entry.actor, done.entry.reason) == ("ann", "clean")
    assert plane.stands() == (STRICT, 1, LEVEL)
    assert plane.refused() == ["mode"]

    # Back and forth: each is a change of its own.
    assert plane.promoting.rollback(plane.subject, "undo", POLICY).entry is not None
    assert plane.stands() == (CANARY, 2, "NONE")
    assert plane.promoting.rollback(plane.subject, "redo", POLICY).entry is not None
    assert plane.stands() == (STRICT, 3, LEVEL)
    assert plane.promoting.demote(plane.subject, "wrong").entry is not None
    assert plane.stands() == (CANARY, 4, "NONE")
    assert plane.promoting.demote(plane.subject, "again").entry is None
    assert plane.entries() == ["promote", "rollback", "rollback", "demote"]
    # A rehearsal of before says nothing of the state now.
    assert "rehearsal.mode_version" in plane.refused()
    chain = plane.log.chain()
    assert verify(chain.values, chain.head).ok


def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused(plane: Plane) -> None:
    plane.rehearse()
    start = threading.Barrier(2)
    came: list[Outcome | SeamlineError] = []

    def promote(actor: str) -> None:
        promoting = plane.of(actor)
        start.wait(30)
        try:
            came.append(promoting.promote(plane.subject, "clean", POLICY, {}))
        except SeamlineError as error:
            came.append(error)

    threads = [threading.Thread(target=promote, args=(actor,)) for actor in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    (won,) = (each for each in came if isinstance(each, Outcome))
    (lost,) = (each for each in came if isinstance(each, SeamlineError))
    assert won.state is not None and isinstance(lost, ContractError)
    assert lost.parameter == "mode" and won.state.actor in str(lost)
    assert plane.entries() == ["promote"] and plane.stands() == (STRICT, 1, LEVEL)


def test_a_promotion_refused_at_the_last_moment_leaves_the_level_as_it_was(plane: Plane) -> None:
    plane.rehearse()
    began_ns = time.time_ns()
    times = iter([began_ns])  # fresh when it is judged first, two hours old inside the transaction
    late = Promoting(
        plane.fresh.world.cluster,
        plane.client,
        actor="ann",
        clock_ns=lambda: next(times, began_ns + 2 * HOUR_NS),
    )
    with pytest.raises(ContractError, match="old, 1h at most"):
        late.promote(plane.subject, "clean", POLICY, {})
    assert plane.stands() == (CANARY, 0, "NONE") and plane.entries() == []


class Counted:
    def __init__(self) -> None:
        self.demoted: list[str] = []

    def budget_demoted(self, subject: str) -> None:
        self.demoted.append(subject)

    def budget_demotion_failed(self, subject: str) -> None:
        raise AssertionError(subject)


def test_two_workers_whose_budget_is_spent_demote_once(plane: Plane) -> None:
    plane.rehearse()
    plane.promote()
    told, names = Counted(), ("worker a", "worker b")
    guards = [
        BudgetGuard(lambda: plane.log, [plane.name], actor=name, told=told, registry=plane.client)
        for name in names
    ]
    for guard in guards:
        guard.start()
        guard.checked(Checked(plane.name, STRICT, 1, seen=100, failed=30, blocked=20))
    assert plane.stands() == (STRICT, 1, LEVEL)
    for guard in guards:
        guard.checked(Checked(plane.name, STRICT, 1, seen=1, failed=1, blocked=1))
    await_that(lambda: plane.stands() == (CANARY, 2, "NONE"), 120, "a demotion")
    await_that(lambda: not any(guard.busy for guard in guards), 120, "both guards")
    for guard in guards:
        guard.stop()
    assert plane.entries() == ["promote", "budget_demote"] and told.demoted == [plane.name]
    state = plane.state
    assert state is not None and state.actor in names and "21 of 101 records" in state.reason
    with pytest.raises(ContractError, match="failure budget"):
        plane.promoting.rollback(plane.subject, "undo", POLICY)


def test_a_registry_that_is_down_stops_a_promotion_and_no_demotion(plane: Plane) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    down = RemoteSchemaRegistryClient(f"http://127.0.0.1:{port}")
    plane.rehearse()
    with pytest.raises(TransportError, match="registry"):
        plane.of("ann", down).promote(plane.subject, "clean", POLICY, {})
    assert plane.stands() == (CANARY, 0, "NONE") and plane.entries() == []
    plane.promote()
    told = plane.of("ann", down).demote(plane.subject, "flood")
    assert told.entry is not None and "registry" in told.left[0]
    assert plane.stands() == (CANARY, 2, LEVEL)
    # The next command does what was left, although it writes nothing itself.
    after = plane.promoting.demote(plane.subject, "look")
    assert (after.entry, after.done, after.left) == (None, ("level NONE",), ())
    assert plane.stands() == (CANARY, 2, "NONE")
    down.close()


def test_a_writer_schema_is_withdrawn_and_comes_back(plane: Plane) -> None:
    ours, other = SCHEMAS["bar"], SCHEMAS["trade"]
    plane.client.register(plane.name, other.text)
    numbers = {text: n for n, text in plane.client.versions(plane.name).items()}
    assert len(numbers) == 2
    named = str(max(numbers.values()))
    promoting, subject = plane.promoting, plane.subject
    for mine in (str(min(numbers.values())), ours.fingerprint):
        with pytest.raises(ContractError, match="our own producers"):
            promoting.tombstone(subject, mine, "old")
    for none in ("77", "v1", "0", "f" * 64, "f" * 12, other.fingerprint[:11]):
        with pytest.raises(UsageError, match="version"):
            promoting.tombstone(subject, none, "old")
    assert plane.entries() == []

    promoting.tombstone(subject, named, "old")
    state = plane.state
    assert state is not None and state.tombstones == (other.fingerprint,)
    assert state.mode == CANARY and len(plane.client.versions(plane.name)) == 1
    with pytest.raises(ContractError, match="already"):
        promoting.tombstone(subject, other.fingerprint[:12], "again")
    promoting.rollback(subject, "still in use", POLICY)
    state = plane.state
    assert state is not None and state.tombstones == ()
    assert len(plane.client.versions(plane.name)) == 2
    assert plane.entries() == ["tombstone", "rollback"]


def test_the_commands_say_every_reason_and_what_they_did(plane: Plane) -> None:
    short = plane.name.removeprefix("seamline.").removesuffix("-value")

    def run(*arguments: str) -> tuple[int, Any]:
        environment = plane.fresh.environment() | {"SEAMLINE_ACTOR": "ops"}
        command = ["schema", *arguments, "-o", "json"]
        found = CliRunner().invoke(app, command, env=environment)
        return found.exit_code, json.loads(found.stdout) if found.stdout else {}

    status, answer = run("promote", short, "--reason", "try")
    assert (status, [r["field"] for r in answer["refused"]]) == (1, ["rehearsal"])
    assert "schema rehearse" in answer["refused"][0]["fix"]
    plane.rehearse(by_rule={"non_finite": 2})
    promote = ("promote", plane.name, "--reason", "2 are known", "--accept", "non_finite=2")
    status, answer = run(*promote, "--canary-window", "2s", "--dry-run")
    assert (status, answer["written"], answer["dry_run"]) == (0, False, True)
    status, answer = run(*promote, "--canary-window", "2s")
    assert (status, answer["mode"], answer["actor"]) == (0, STRICT, "ops")
    status, rows = run("mode", short)
    assert [(r["subject"], r["mode"], r["version"]) for r in rows] == [(plane.name, STRICT, 1)]
    status, answer = run("demote", short, "--reason", "too early", "--actor", "bob")
    assert (status, answer["version"], answer["registry"]) == (0, 2, ["level NONE"])
    status, answer = run("rollback", short, "--reason", "no, it was right")
    assert (status, answer["mode"], answer["evidence"]["action"]) == (0, STRICT, "demote")
    for wrong in (
        ("promote", "nothing", "--reason", "x"),
        ("promote", short, "--reason", " "),
        ("promote", short, "--reason", "x", "--accept", "all"),
        ("promote", short, "--reason", "x", "--canary-window", "24"),
        ("demote", f"ohlcv.{secrets.token_hex(4)}.spot.1m.live", "--reason", "x"),
        ("demote", short, "--reason", "x", "--actor", ""),
    ):
        assert run(*wrong)[0] == 2, wrong
