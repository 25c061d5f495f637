"""Broken places of taking a partition, of the owner's loop and of assignments, each guard taken out
alone. They need a broker."""

from __future__ import annotations

from typing import Final

from mutants.mutant import Mutant

LANE: Final = "integration/test_lane.py"
LANE_GUARDS: Final = "integration/test_lane_guards.py"
OWNER: Final = "integration/test_owner.py"
GUARDS: Final = "integration/test_owner_guards.py"
POISON: Final = "integration/test_poisoned_record.py"

MUTANTS: Final = (
    Mutant(
        "read-back-before-the-fence",
        "streams.apps.tenure:Tenure.__init__",
        "            self._producer.init(INIT_TIMEOUT_S)  # 2\n"
        "            self.completed = complete_open(  # 3\n"
        "                self._producer, cluster, admin, place.partition, factory.outputs()\n"
        "            )\n"
        "            self._reader = LogReader(cluster, place.partition, admin)\n"
        "            self._machine = factory.rebuild(self._reader)  # 4\n",
        "            self.completed = None\n"
        "            self._reader = LogReader(cluster, place.partition, admin)\n"
        "            self._machine = factory.rebuild(self._reader)  # 4\n"
        "            self._producer.init(INIT_TIMEOUT_S)  # 2\n",
        "What the former owner commits meanwhile is decided and written a second time.",
        (f"{GUARDS}::test_the_former_owner_is_fenced_before_anything_is_read_back",),
    ),
    Mutant(
        "aborted-position-believed",
        "connectors.kafka.reader:consumer_config",
        '"isolation.level": settings.isolation',
        '"isolation.level": "read_uncommitted"',
        "The position of a transaction that never was: what it covers is lost.",
        (f"{GUARDS}::test_the_position_of_an_open_transaction_is_not_believed",),
    ),
    Mutant(
        "position-outside-the-transaction",
        "streams.apps.tenure:Tenure._transact",
        "            for batch in step.batches:  # 3",
        "            for batch in step.batches[:-1]:  # 3",
        "After a failure everything since the start is written again.",
        (f"{OWNER}::test_a_fenced_owner_takes_again_and_repeats_nothing",),
    ),
    Mutant(
        "fetch-from-the-machines-zero",
        "streams.apps.tenure:Tenure.points",
        "positions[role] = max(at, first[topic])",
        "positions[role] = at",
        "A topic whose first records expired is never read.",
        (f"{LANE}::test_a_position_that_expired_is_told_and_never_jumped_over_silently",),
    ),
    Mutant(
        "closed-owner-fences-the-next",
        "streams.apps.owner:Owner._take",
        "            if closing.is_set():\n                raise Closed\n"
        "            tenure = Tenure(",
        "            tenure = Tenure(",
        "A worker that gave its partition up throws the next owner out, and lag grows.",
        (f"{GUARDS}::test_an_owner_that_was_closed_while_it_waited_for_its_thread_fences_nobody",),
    ),
    Mutant(
        "one-topic-restarts",
        "streams.apps.owner:Owner._restart",
        "for r, at in points.positions.items()}, began",
        "for r, at in points.positions.items() if r == ROLES[0]}, began",
        "After a break in one landing topic nothing of the other arrives any more.",
        (f"{LANE}::test_both_landing_topics_of_a_partition_come_out_once",),
    ),
    Mutant(
        "lost-chunk-jumped-over",
        "streams.kernel.inbox:Inbox.offer",
        "if chunk.prev != side.last:",
        "if chunk.prev == chunk.last:",
        "A chunk that Faust dropped in a rebalance is jumped over: its records are lost.",
        (f"{LANE}::test_a_lost_chunk_is_seen_by_the_next_and_both_topics_restart",),
    ),
    Mutant(
        "chunk-of-another-session-accepted",
        "streams.kernel.inbox:Inbox.offer",
        "if chunk.session != side.session:",
        "if side.session is None:",
        "What was fetched before a restart is written a second time.",
        (f"{LANE_GUARDS}::test_a_chunk_that_outlives_its_session_fits_no_other",),
    ),
    Mutant(
        "break-not-acted-on",
        "streams.apps.owner:Owner.offer",
        "        if verdict is Verdict.BROKEN:",
        "        if verdict is Verdict.STALE and self._cause:",
        "A lost chunk is seen, and nothing is done until the silence is long.",
        (f"{LANE}::test_a_lost_chunk_is_seen_by_the_next_and_both_topics_restart",),
    ),
    Mutant(
        "silence-not-noticed",
        "streams.apps.owner:Owner._look_for_lost",
        "now - self._behind_since > self._settings.lost_s:",
        "now - self._behind_since > self._settings.lost_s * 1e9:",
        "The last chunk before a quiet hour is lost until the hour is over.",
        (
            f"{LANE}::test_a_lost_chunk_without_a_next_is_missed_too",
            f"{LANE}::test_an_agent_that_raises_lives_on_and_its_chunk_is_fetched_again",
        ),
    ),
    Mutant(
        "exception-leaves-the-agent",
        "streams.apps.preset_app:PresetApp._conform",
        "            except Exception:",
        "            except KeyError:",
        "A fault of the program ends the agent, and nobody hears of the chunk that it had.",
        (f"{LANE}::test_an_agent_that_raises_lives_on_and_its_chunk_is_fetched_again",),
    ),
    Mutant(
        "machine-kept-after-a-failure",
        "streams.kernel.owner_states:",
        "(State.RUNNING, Event.FAILED): State.WAITING,",
        "(State.RUNNING, Event.FAILED): State.RESTARTING,",
        "The half-done changes of a failed step are committed with the next one.",
        (f"{POISON}::test_a_poisoned_record_goes_to_quarantine_and_live_goes_on",),
    ),
    Mutant(
        "attempt-counted-in-company",
        "streams.kernel.suspects:Suspects.failed",
        "        if count > 1:",
        "        if count > 20_000:",
        "A good record goes to quarantine for what another one did.",
        (POISON, "unit/test_poisoned.py"),
    ),
    Mutant(
        "broker-blamed-on-a-record",
        "streams.apps.tenure:",
        "NOT_OF_THE_RECORDS: Final = (TransportError, OSError, MemoryError)",
        "NOT_OF_THE_RECORDS: Final = (MemoryError,)",
        "An outage of the broker puts good records into quarantine one by one.",
        (f"{POISON}::test_a_poisoned_record_goes_to_quarantine_and_live_goes_on",),
    ),
    Mutant(
        "full-queue-not-held",
        "streams.apps.owner:Owner.offer",
        "                self._lane.hold(self._tps[role])",
        "                self.inbox.relieved(role)",
        "A slow owner takes the memory of the process and with it everybody else.",
        (f"{OWNER}::test_a_slow_owner_is_held_and_stalls_nobody",),
    ),
    Mutant(
        "former-owners-live-on",
        "streams.apps.preset_app:PresetApp._assigned",
        "        assigned: set[TP] = args[0]\n        await self.close_owners()",
        "        assigned: set[TP] = args[0]",
        "Two owners of one process take a partition from each other for ever.",
        (f"{LANE_GUARDS}::test_assignments_end_what_was_before_them",),
    ),
    Mutant(
        "half-a-partition-accepted",
        "streams.apps.preset_app:PresetApp._assigned",
        "        if live != backfill:",
        "        if live - backfill:",
        "An owner of one landing topic fences the owner of the other.",
        (f"{LANE_GUARDS}::test_assignments_end_what_was_before_them",),
    ),
    Mutant(
        "tick-waits-for-silence",
        "streams.apps.owner:Owner._serve",
        "if self.beat_s - self._ticked_s >= self._settings.tick_s:",
        "if self.beat_s - self._ticked_s >= self._settings.tick_s and self.inbox.empty:",
        "While heartbeats come, nothing that waits too long is ever sealed.",
        (f"{GUARDS}::test_the_clock_ticks_while_there_is_always_something_to_do",),
    ),
)
