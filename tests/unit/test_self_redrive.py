"""When a worker takes a registry for one that answers again."""

from __future__ import annotations

from seamline.schemas.contract import SCHEMAS, Schema
from seamline.schemas.errors import TransportError
from seamline.streams.apps.self_redrive import answers

DOWN, KNOWN, NOTHING = 1, 2, 3


def resolve(number: int) -> Schema | None:
    if number == DOWN:
        raise TransportError("no schema text")
    return SCHEMAS["bar"] if number == KNOWN else None


def test_one_id_that_is_answered_is_enough_and_one_that_never_is_holds_nobody_back() -> None:
    assert answers(resolve, [])
    assert not answers(resolve, [DOWN])
    assert answers(resolve, [DOWN, KNOWN]) and answers(resolve, [KNOWN, DOWN])
    assert answers(resolve, [DOWN, NOTHING])
