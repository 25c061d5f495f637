"""A follower of modes whose client fails in ways that no broker test can bring about."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from seamline.connectors.governance import follow
from seamline.connectors.governance.follow import ModeFollower
from seamline.connectors.kafka.admin import TP
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message
from seamline.schemas.modes import CANARY, STRICT, SubjectState, encode_state
from seamline.schemas.topics import SCHEMA_MODES_TOPIC

STATE = SubjectState("x-value", STRICT, 1, 1, "ann", "clean", "ab" * 32)
AT: TP = (SCHEMA_MODES_TOPIC, 0)


class OneTopic:
    """An admin client of an empty control topic."""

    def __init__(self, *_: Any) -> None:
        pass

    def partitions(self, topics: list[str]) -> dict[str, int]:
        return dict.fromkeys(topics, 1)

    def end_offsets(self, tps: list[TP]) -> dict[TP, int]:
        return dict.fromkeys(tps, 0)

    begin_offsets = end_offsets


class Failing:
    """A tail that fails in live, and in closing; the third one brings a state."""

    made = 0
    cause = None
    partitions = (AT,)

    def __init__(self, *_: Any) -> None:
        Failing.made += 1
        self._number = Failing.made

    def add(self, tp: TP, offset: int) -> None:
        pass

    def reached(self, tp: TP, fence: int) -> bool:
        return True

    def position(self, tp: TP) -> int:
        return 0

    def poll(self, timeout_s: float) -> list[Message]:
        if self._number < 3:
            raise SystemError("headers returned a result with an exception set")
        return [Message(*AT, 0, 0, STATE.subject.encode(), encode_state(STATE), ())]

    def close(self) -> None:
        raise RuntimeError("closed twice")


def test_whatever_its_client_raises_the_modes_are_followed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "Admin", OneTopic)
    monkeypatch.setattr(follow, "Tail", Failing)
    monkeypatch.setattr(follow, "AGAIN_S", 0.0)
    changed = threading.Event()
    monkeypatch.setattr(ModeFollower, "_say_changed", lambda *_: changed.set())
    follower = ModeFollower(Cluster("127.0.0.1:9"), CANARY)
    follower.start()
    assert changed.wait(30)
    assert follower.policy(STATE.subject).mode == STRICT and not follower.lost
    follower.stop()
