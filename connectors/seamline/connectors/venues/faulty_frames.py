"""What a frame becomes that is malformed, oversized or says a wrong symbol.

Decides: the text that comes instead. Invariants: a function of the text and of chance; a malformed
text is never a message that the venue could have sent. Must not know: sockets, when it happens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

# A client takes at most 1 MiB in one message (`StreamRules.frame_bytes_max`).
OVERSIZED_BYTES = 2**20 + 2**16
UNLISTED = "NOSUCHCOIN"
_NONSENSE = "\x00\x01<html><body>502 Bad Gateway</body></html>"


def oversized(text: str) -> str:
    """The same message with more bytes than a client takes: it is padded by spaces."""
    return text[:-1] + " " * (OVERSIZED_BYTES - len(text)) + text[-1:]


def malformed(text: str, chance: int) -> str:
    """Bytes that are no message: cut off, no JSON, no object, or a field that cannot be."""
    ways = (
        text[: len(text) // 2],
        text[: len(text) * 9 // 10],
        _NONSENSE,
        f"[{text}]",
        "[" * 2_000,
        _without(text, "s"),
        _with_field(text, ("c", "p"), "NaN"),
        _with_field(text, ("c", "p"), ""),
        _with_field(text, ("t", "T"), 0.5),
        _with_field(text, ("t", "T"), 10**19),
        _with_field(text, ("x", "m"), "yes"),
        _with_field(text, ("v", "q"), None),
    )
    return ways[chance % len(ways)]


def wrong_symbol(text: str, others: Sequence[str], disguise: str, chance: int) -> str:
    """The same message of another symbol. `others` are listed venue symbols; without one, or with
    the disguise `unlisted`, the symbol is one that is not listed. The name of the stream in the
    envelope stays: it is the connection's, not the message's.
    """
    ways = ("unlisted", "listed", "inner")
    way = ways[chance % len(ways)] if disguise == "any" else disguise
    other = others[(chance >> 8) % len(others)] if others and way != "unlisted" else UNLISTED
    message = json.loads(text)
    data = message.get("data", message)
    if way != "inner" or "k" not in data:
        data["s"] = other
    if "k" in data:
        data["k"]["s"] = other
    return _dumped(message)


def _without(text: str, name: str) -> str:
    message = json.loads(text)
    message.get("data", message).pop(name, None)
    return _dumped(message)


def _with_field(text: str, names: tuple[str, str], value: object) -> str:
    """A field of the kline, or of the trade, with another value."""
    message = json.loads(text)
    data = message.get("data", message)
    if "k" in data:
        data["k"][names[0]] = value
    else:
        data[names[1]] = value
    return _dumped(message)


def _dumped(message: object) -> str:
    return json.dumps(message, separators=(",", ":"))
