"""Broken places of the lane: each guard against losing chunks taken out alone, on a broker."""

from __future__ import annotations

from typing import Final

from mutants.mutant import Mutant

LANE: Final = "integration/test_lane.py"
GUARDS: Final = "integration/test_lane_guards.py"
TRANSPORT: Final = "streams.apps.lane:LaneConsumer"

MUTANTS: Final = (
    Mutant(
        "session-taken-after-the-fetch",
        f"{TRANSPORT}._drain_messages",
        "                for tp, records in fetched.items():",
        "                sessions = dict(self._sessions)\n"
        "                for tp, records in fetched.items():",
        "What was fetched before a restart counts as the first chunk after it: records are lost.",
        (f"{GUARDS}::test_what_a_fetch_brings_belongs_to_the_sessions_of_before_it",),
    ),
    Mutant(
        "seek-beside-the-fetch",
        f"{TRANSPORT}.restart_at",
        "        self._restarts.append(wish)\n",
        "        self._restarts.append(wish)\n        await self._serve_restarts()\n",
        "A position moves under a fetch in flight, which then moves it again.",
        (f"{GUARDS}::test_a_restart_waits_for_the_fetch_that_is_under_way",),
    ),
    Mutant(
        "restart-without-a-seek",
        f"{TRANSPORT}._begin_sessions",
        "        await self._thread.seek_wait(seeks)",
        "        client = self._thread._ensure_consumer()\n"
        "        for tp, at in seeks.items():\n"
        "            now = fetching.fetch_position(client, tp.topic, tp.partition)\n"
        "            seeks[tp] = max(at, now or 0)\n"
        "        await self._thread.seek_wait(seeks)",
        "After a failure fetching goes on where it was: what was not committed is lost.",
        (f"{LANE}::test_a_lost_chunk_is_seen_by_the_next_and_both_topics_restart",),
    ),
    Mutant(
        "no-seek-to-the-beginning",
        f"{TRANSPORT}._begin_sessions",
        "for tp, at in wanted}",
        "for tp, at in wanted if at}",
        "Where nothing is committed yet nothing is fetched, or fetching begins somewhere.",
        (f"{LANE}::test_both_landing_topics_of_a_partition_come_out_once",),
    ),
    Mutant(
        "stale-fetch-delivered",
        f"{TRANSPORT}._deliver",
        "if session is None or self._sessions.get(tp) != session or not records:",
        "if session is None or not records:",
        "A fetch of before a restart counts as handed over; the session that follows never fits.",
        (f"{LANE}::test_what_was_fetched_before_a_restart_is_not_delivered_after_it",),
    ),
    Mutant(
        "sessions-used-again",
        f"{TRANSPORT}._begin_sessions",
        "{tp: next(self._serial) for tp in wish.positions}",
        "dict.fromkeys(wish.positions, 1)",
        "A chunk that comes late is taken for one of the session of now.",
        (f"{GUARDS}::test_a_chunk_that_outlives_its_session_fits_no_other",),
    ),
    Mutant(
        "session-told-too-late",
        f"{TRANSPORT}._begin_sessions",
        "        wish.began(sessions)\n        wish.done.set_result(None)",
        "        wish.done.set_result(None)\n"
        "        asyncio.get_running_loop().call_soon(wish.began, sessions)",
        "The first chunk of a session arrives before its owner knows the session, and is dropped.",
        (f"{GUARDS}::test_an_owner_knows_a_session_before_anything_of_it_is_fetched",),
    ),
    Mutant(
        "given-up-restart-begins",
        f"{TRANSPORT}._begin_sessions",
        "if wish.done.done() or not set(wish.positions) <= self.assignment():",
        "if not set(wish.positions) <= self.assignment():",
        "A session begins that nobody waits for; an owner that is closed gets chunks.",
        (f"{GUARDS}::test_a_restart_that_was_given_up_or_is_of_another_worker_begins_nothing",),
    ),
    Mutant(
        "restart-of-another-worker",
        f"{TRANSPORT}._begin_sessions",
        "        if missing:",
        "        if missing and self._held:",
        "A restart of a partition that was revoked moves positions of somebody else.",
        (f"{GUARDS}::test_a_restart_that_was_given_up_or_is_of_another_worker_begins_nothing",),
    ),
    Mutant(
        "sessions-survive-a-revocation",
        f"{TRANSPORT}.on_partitions_revoked",
        "        self.end(list(self._sessions))",
        "        self.end([])",
        "Partitions of somebody else are fetched and delivered on.",
        (f"{GUARDS}::test_assignments_end_what_was_before_them",),
    ),
    Mutant(
        "faust-seeks",
        f"{TRANSPORT}.perform_seek",
        '        """Would move positions behind the owner\'s back."""',
        "        await super().perform_seek()",
        "Faust moves a position to the group's offset, whoever set it: records are lost.",
        (f"{LANE}::test_fausts_seeks_commits_and_acks_decide_nothing",),
    ),
    Mutant(
        "faust-commits",
        f"{TRANSPORT}.commit",
        "        return False",
        "        return await super().commit(topics, start_new_transaction)",
        "The group's offsets move with acks of chunks that nobody committed.",
        (f"{LANE}::test_fausts_seeks_commits_and_acks_decide_nothing",),
    ),
    Mutant(
        "faust-acks",
        f"{TRANSPORT}.ack",
        "        return False",
        "        return super().ack(message)",
        "A chunk whose agent raised, or that a rebalance skipped, counts as done.",
        (f"{LANE}::test_fausts_seeks_commits_and_acks_decide_nothing",),
    ),
    Mutant(
        "uncommitted-records-fetched",
        "connectors.kafka.fetching:prepare",
        'consumer._isolation_level = "read_committed"',
        'consumer._isolation_level = "read_uncommitted"',
        "Records of aborted backfills become bars.",
        (f"{LANE}::test_uncommitted_and_aborted_records_are_not_seen",),
    ),
    Mutant(
        "lost-position-jumps",
        "connectors.kafka.fetching:prepare",
        'consumer._auto_offset_reset = "none"',
        'consumer._auto_offset_reset = "latest"',
        "A position that expired jumps to the end without a word.",
        (f"{LANE}::test_a_position_that_expires_while_running_ends_the_session_and_is_told",),
    ),
    Mutant(
        "settings-not-checked",
        "connectors.kafka.fetching:settings_refused",
        "made._isolation_level == READ_COMMITTED_CODE",
        "made._isolation_level >= 0",
        "A newer client that ignores the setting reads aborted records, and nobody hears of it.",
        (f"{GUARDS}::test_a_consumer_that_ignores_the_isolation_is_refused",),
    ),
    Mutant(
        "another-assignor-accepted",
        "streams.apps.lane:LaneThread.refused",
        "if self._assignor is not self.app.assignor:",
        "if self._assignor is None:",
        "A worker holds partition p of one landing topic without that of the other.",
        (f"{LANE}::test_another_assignor_is_refused_at_start",),
    ),
)
