"""Follow the modes of subjects while the process runs.

Decides: how the control topic is read: whole, to a fence, before anything is validated, then its
tail for as long as the process lives. Invariants: nobody starts without knowing the modes; a
control topic that does not exist is an empty book, and is looked for until it does; a lost broker
keeps the last known modes and is said once; a change is in force 2 s after its commit at the latest
while the broker answers, and is a warning in the log, once; `policy` reads a dict and never blocks.
Must not know: rules, records, who changes a mode and why it is right.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, ReaderSettings, Tail
from seamline.schemas.errors import ContractError, SeamlineError, TransportError
from seamline.schemas.modes import ModeBook, Policy, SubjectState, parse_mode
from seamline.schemas.topics import SCHEMA_MODES_TOPIC

log = logging.getLogger(__name__)

START_S: Final = 30.0
POLL_S: Final = 0.25
# Between two tries with a broker that does not answer, and two looks for a topic that is not there.
AGAIN_S: Final = 1.0
# How often in a row the end may be found ahead before the reader is made anew.
BEHIND_MAX: Final = 3
STOP_S: Final = 1.0
# The topic is small: no queue worth its memory, and the broker's answers at once.
SETTINGS: Final = ReaderSettings(
    queue_kbytes=2_048, queue_messages_min=1_000, partition_fetch_bytes=1_048_576, fetch_wait_ms=100
)
ADMIN_TIMEOUT_S: Final = 5.0


class ModeFollower:
    """The modes of all subjects as they are now. `start` before `policy`; `stop` at the end.

    `default_mode` is that of subjects without one of their own; `subjects` those whose changes are
    warnings, all if not given. Raises UsageError for no mode.
    """

    def __init__(
        self,
        cluster: Cluster,
        default_mode: str,
        *,
        subjects: Collection[str] | None = None,
        topic: str = SCHEMA_MODES_TOPIC,
    ) -> None:
        self.default_mode = parse_mode(default_mode, "default_mode")
        self._cluster, self._topic, self._subjects = cluster, topic, subjects
        self._admin = Admin(cluster, ADMIN_TIMEOUT_S)
        self._book = ModeBook()
        # Made by the follower's thread, read by any other.
        self._policies: dict[str, Policy] = {}
        self._otherwise = Policy(self.default_mode)
        self._tail: Tail | None = None
        self._next: dict[TP, int] = {}
        self._lost = False
        self._ask_s, self._behind = 0.0, 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def unreadable(self) -> int:
        """Records of the topic that were no states; the states before them stood."""
        return self._book.unreadable

    @property
    def lost(self) -> bool:
        """Whether the broker does not answer now, so that the modes may be old."""
        return self._lost

    def start(self) -> None:
        """Read everything that is committed, then follow in a thread. Raises as `read` does."""
        self.read()
        self._thread = threading.Thread(target=self._follow, name="schema modes", daemon=True)
        self._thread.start()

    def read(self) -> None:
        """Read everything that is committed now.

        Raises TransportError where the broker does not say it all in time.
        """
        deadline = time.monotonic() + START_S
        try:
            fences = self._open()
            while not self._reached(fences):
                if time.monotonic() >= deadline:
                    raise TransportError(
                        f"the modes of schemas could not be read in {START_S:g} s",
                        parameter="topic",
                        value=self._topic,
                        fix="Check that the broker is up and reachable from here",
                    )
                self._take(self._polled())
        except BaseException:
            self._close()
            raise

    def policy(self, subject: str) -> Policy:
        """How records of `subject` are judged from now on."""
        return self._policies.get(subject, self._otherwise)

    def stop(self) -> None:
        """End the thread; the modes stay as they are known."""
        self._stopping.set()
        if self._thread is None:
            self._close()
        else:
            self._thread.join(STOP_S)

    # -- reading

    def _open(self) -> dict[TP, int]:
        """Begin where it was left off, else at the beginning; the fences of now. Nothing is opened
        where there is no topic."""
        count = self._admin.partitions([self._topic]).get(self._topic, 0)
        tps = [(self._topic, number) for number in range(count)]
        if not tps:
            self._next.clear()
        fences = self._admin.end_offsets(tps)
        fresh = [tp for tp in tps if tp not in self._next]
        self._next.update(self._admin.begin_offsets(fresh))
        if tps:
            self._tail = Tail(self._cluster, SETTINGS)
            for tp in tps:
                self._tail.add(tp, self._next[tp])
        return fences

    def _reached(self, fences: dict[TP, int]) -> bool:
        return self._tail is None or all(self._tail.reached(tp, at) for tp, at in fences.items())

    def _polled(self) -> list[Message]:
        assert self._tail is not None
        messages = self._tail.poll(POLL_S)
        self._next.update({tp: self._tail.position(tp) for tp in self._tail.partitions})
        return messages

    def _take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            unreadable = self._book.unreadable
            before = self._book.state_of((message.key or b"").decode("utf-8", "replace"))
            state = self._book.take(message.key, message.value)
            if state is not None:
                self._policies[state.subject] = self._book.policy_of(
                    state.subject, self.default_mode
                )
                self._say_changed(before, state)
            elif self._book.unreadable > unreadable:
                log.error(
                    "%s[%d]@%d is no state of a subject and changes no mode: %s",
                    *(message.topic, message.partition, message.offset, self._book.fault),
                )

    def _say_changed(self, before: SubjectState | None, now: SubjectState) -> None:
        was = f"{self.default_mode} by default" if before is None else before.mode
        # What is read at the start changed before this process was there.
        ours = self._subjects is None or now.subject in self._subjects
        log.log(
            logging.WARNING if ours and self._thread is not None else logging.INFO,
            "%s is %s (version %d, %d writer schemas withdrawn), was %s; set by %s: %s",
            *(now.subject, now.mode, now.version, len(now.tombstones), was, now.actor, now.reason),
        )

    # -- the thread

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
            except Exception as error:
                # Whatever it was: the last known modes stand, and the next try may succeed.
                self._say_lost(error)
                if isinstance(error, ContractError):
                    self._next.clear()  # the topic is another one now: from its beginning
                self._close()
                self._stopping.wait(AGAIN_S)
        self._close()

    def _round(self) -> None:
        if self._tail is None:
            self._open()
            self._say_found()
            if self._tail is None:
                self._stopping.wait(AGAIN_S)
                return
        self._take(self._polled())
        if self._tail.cause is None or time.monotonic() < self._ask_s:
            return
        # The client tries again by itself and does not say whether it succeeded: ask the broker.
        self._ask_s = time.monotonic() + AGAIN_S
        behind = not self._reached(self._admin.end_offsets(self._tail.partitions))
        self._behind = self._behind + 1 if behind else 0
        if self._behind > BEHIND_MAX:
            raise TransportError("the end is not reached", parameter="topic", value=self._topic)

    def _say_lost(self, error: Exception) -> None:
        if not self._lost:
            self._lost = True
            told = error if isinstance(error, SeamlineError) else f"{type(error).__name__}: {error}"
            log.warning("changes of schema modes are not seen, the last known stand: %s", told)

    def _say_found(self) -> None:
        if self._lost:
            self._lost = False
            log.info("changes of schema modes are seen again")

    def _close(self) -> None:
        tail, self._tail = self._tail, None
        self._behind = 0
        if tail is not None:
            # Whatever a client says in closing: the thread that follows must not end by it.
            with suppress(Exception):
                tail.close()


def mode_now(cluster: Cluster, default_mode: str) -> Callable[[str], str]:
    """Subject -> its mode as it is now, for a program that asks at its start alone.

    Raises UsageError for no mode, TransportError where the broker does not say it all in time.
    """
    follower = ModeFollower(cluster, default_mode)
    follower.read()
    follower.stop()
    return lambda subject: follower.policy(subject).mode
