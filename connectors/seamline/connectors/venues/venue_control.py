"""The control messages of Binance's WebSocket: subscribe, unsubscribe, list, properties.

Decides: what a message asks for and how it is answered, codes included. Invariants: pure; each
message gets exactly one reply; a refused message changes nothing. Must not know: sockets, markets.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

STREAMS_MAX = 1_024
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


@dataclass(frozen=True, slots=True)
class Control:
    """The reply to one message and what changes: streams to add and remove, the envelope
    setting."""

    reply: dict[str, Any]
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    combined: bool | None = None


def control(text: str, streams: Collection[str], combined: bool) -> Control:
    """Answer one text message of a socket that has `streams` and the envelope setting
    `combined`."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return _refused(3, "Invalid JSON: expected value at line 1 column 1", None)
    if not isinstance(message, dict):
        return _refused(2, "Invalid request: expected an object", None)
    id_ = message.get("id")
    if isinstance(id_, bool) or not isinstance(id_, int | str | None):
        return _refused(2, "Invalid request: request ID must be an unsigned integer", None)
    method, params = message.get("method"), message.get("params", [])
    if method is None:
        return _refused(2, "Invalid request: missing field `method`", id_)
    if method not in METHODS:
        known = ", ".join(f"`{name}`" for name in METHODS)
        return _refused(
            2, f"Invalid request: unknown variant `{method}`, expected one of {known}", id_
        )
    if not isinstance(params, list):
        return _refused(2, "Invalid request: params must be a list", id_)
    if method == "LIST_SUBSCRIPTIONS":
        return Control({"result": list(streams), "id": id_})
    if method.endswith("PROPERTY"):
        return _property(method, params, combined, id_)
    return _streams(method, params, streams, id_)


def _streams(
    method: str, params: list[Any], streams: Collection[str], id_: int | str | None
) -> Control:
    if not params or not all(isinstance(name, str) for name in params):
        return _refused(2, "Invalid request: params must be a list of stream names", id_)
    done = {"result": None, "id": id_}
    if method == "UNSUBSCRIBE":
        return Control(done, remove=tuple(name for name in params if name in streams))
    add = tuple(dict.fromkeys(name for name in params if name not in streams))
    if len(streams) + len(add) > STREAMS_MAX:
        return _refused(2, f"Invalid request: more than {STREAMS_MAX} streams", id_)
    return Control(done, add=add)


def _property(method: str, params: list[Any], combined: bool, id_: int | str | None) -> Control:
    if not params or params[0] != "combined":
        return _refused(0, "Unknown property", id_)
    if method == "GET_PROPERTY":
        return Control({"result": combined, "id": id_})
    if len(params) != 2 or not isinstance(params[1], bool):
        return _refused(1, "Invalid value type: expected Boolean", id_)
    return Control({"result": None, "id": id_}, combined=params[1])


def _refused(code: int, message: str, id_: int | str | None) -> Control:
    return Control({"code": code, "msg": message, "id": id_})
