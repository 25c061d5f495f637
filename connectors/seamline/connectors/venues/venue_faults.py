"""The faults of a simulated venue: written as a line of text, decided by a pure function.

Decides: what happens to a frame on its way to a socket, and when sockets are dropped. Invariants: a
decision follows from (seed, fault, frame) alone, so the same frame on the same socket fares the
same in every run; the first fault that hits decides. Must not know: sockets, clocks, markets.

Syntax: faults are separated by `;`, each is `kind` or `kind:key=value,key=value`.

    lose-frames:p=0.05,only=closed            each closed kline is lost with this probability
    lose-frames:at=+10m|+11m,symbol=BTC/USDT  the klines of these minutes
    lose-frames:every=40                      each 40th frame of a socket
    drop-socket:at=2026-01-31T00:10:00Z       all sockets, at this simulated time
    drop-socket:every=500                     a socket, instead of its 500th frame
    drop-socket:p=0.001                       a socket, instead of a frame, with this probability

`from` and `to` bound p and every to a span of simulated time, half-open; `+10m` is counted from the
simulated start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from seamline.connectors.venues.market import MINUTE_MS
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_MS, parse_duration, parse_time

FAULTS_MAX = 64
TIMES_MAX = 1_000
ONLY = ("any", "closed", "open")


class Fate(Enum):
    """What becomes of one frame on one socket."""

    SEND = "send"
    LOSE = "lose"
    DROP_SOCKET = "drop"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a fault may look at. `session` counts sockets from 1, `number` frames of it from 1.

    `open_ms` and `closed` are those of a kline; a trade has None and False.
    """

    session: int
    number: int
    stream: str
    symbol: str
    event_ms: int
    open_ms: int | None
    closed: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """One parsed fault. Times are simulated milliseconds; None and 0 are "not given"."""

    text: str
    kind: str
    p: float = 0.0
    every: int = 0
    at: tuple[int, ...] = ()
    symbol: str | None = None
    only: str = "any"
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one simulator, in the order in which they are asked."""

    seed: int = 0
    faults: tuple[Fault, ...] = ()

    def fate(self, frame: Frame) -> tuple[Fate, int]:
        """What becomes of `frame`, and the number of the fault that decided (-1: none)."""
        for index, fault in enumerate(self.faults):
            if _hits(fault, index, self.seed, frame):
                return _FATES[fault.kind], index
        return Fate.SEND, -1

    def drops(self, after_ms: int, upto_ms: int) -> list[tuple[int, int]]:
        """The (time, fault number) of drops of all sockets in `(after_ms, upto_ms]`, in order."""
        return sorted(
            (at, index)
            for index, fault in enumerate(self.faults)
            if fault.kind == "drop-socket"
            for at in fault.at
            if after_ms < at <= upto_ms
        )

    def next_drop_ms(self, after_ms: int) -> int | None:
        """The time of the first drop of all sockets after `after_ms`."""
        drops = self.drops(after_ms, 2**62)
        return drops[0][0] if drops else None


def _hits(fault: Fault, index: int, seed: int, frame: Frame) -> bool:
    if fault.symbol is not None and fault.symbol != frame.symbol:
        return False
    if fault.only != "any" and (frame.open_ms is None or frame.closed != (fault.only == "closed")):
        return False
    if frame.open_ms is not None and fault.kind == "lose-frames":
        end_ms = frame.open_ms + MINUTE_MS
        if any(frame.open_ms <= at < end_ms for at in fault.at):
            return True
    if fault.from_ms is not None and frame.event_ms < fault.from_ms:
        return False
    if fault.to_ms is not None and frame.event_ms >= fault.to_ms:
        return False
    if fault.every and frame.number % fault.every == 0:
        return True
    return fault.p > 0 and _chance(seed, index, frame) < fault.p


def _chance(seed: int, index: int, frame: Frame) -> float:
    name = f"{seed}:{index}:{frame.session}:{frame.stream}:{frame.event_ms}:{frame.closed}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def parse_faults(text: str, *, start_ns: int) -> tuple[Fault, ...]:
    """The faults of a text in the syntax above; empty text gives none.

    Raises UsageError for an unknown kind or key (naming near ones) and for a value without sense.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) > FAULTS_MAX:
        raise UsageError(f"more than {FAULTS_MAX} faults", parameter="faults", value=len(parts))
    return tuple(_parse_one(part, start_ns) for part in parts)


def _parse_one(text: str, start_ns: int) -> Fault:
    kind, _, rest = text.partition(":")
    keys = _KINDS.get(kind.strip())
    if keys is None:
        raise _unknown("kind of fault", kind.strip(), _KINDS)
    values: dict[str, object] = {}
    for pair in filter(None, (pair.strip() for pair in rest.split(","))):
        key, equals, value = pair.partition("=")
        if key not in keys:
            raise _unknown(f"key of {kind}", key, keys)
        if not equals or not value:
            raise UsageError("without a value", parameter="faults", value=pair)
        values[_FIELDS.get(key, key)] = keys[key](value, start_ns)
    if not values.keys() & {"p", "every", "at"}:
        raise UsageError(
            "never happens",
            parameter="faults",
            value=text,
            fix="Say when: p=0.01, every=100 or at=+5m",
        )
    return Fault(text=text, kind=kind.strip(), **values)  # type: ignore[arg-type]


def _unknown(what: str, name: str, known: Mapping[str, object]) -> UsageError:
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return UsageError(
        f"unknown {what}",
        parameter="faults",
        value=name,
        fix=f"Use one of {', '.join(near or known)}",
    )


def _probability(text: str, start_ns: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise UsageError("not a probability above 0 and up to 1", parameter="faults", value=text)
    return value


def _count(text: str, start_ns: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise UsageError("not a count of 1 or more", parameter="faults", value=text)
    return int(text)


def _time(text: str, start_ns: int) -> int:
    if text.startswith("+"):
        return (start_ns + parse_duration(text[1:], parameter="faults")) // NS_PER_MS
    return parse_time(text, now_ns=start_ns, parameter="faults") // NS_PER_MS


def _times(text: str, start_ns: int) -> tuple[int, ...]:
    texts = text.split("|")
    if len(texts) > TIMES_MAX:
        raise UsageError(f"more than {TIMES_MAX} times", parameter="faults", value=len(texts))
    return tuple(_time(part, start_ns) for part in texts)


def _only(text: str, start_ns: int) -> str:
    if text not in ONLY:
        raise UsageError(f"not one of {', '.join(ONLY)}", parameter="faults", value=text)
    return text


def _symbol(text: str, start_ns: int) -> str:
    return text


_Parser = Callable[[str, int], object]
_WHEN: dict[str, _Parser] = {
    "p": _probability,
    "every": _count,
    "at": _times,
    "from": _time,
    "to": _time,
}
_WHICH: dict[str, _Parser] = {"symbol": _symbol, "only": _only}
_KINDS: dict[str, dict[str, _Parser]] = {
    "lose-frames": _WHEN | _WHICH,
    "drop-socket": _WHEN,
}
_FATES = {"lose-frames": Fate.LOSE, "drop-socket": Fate.DROP_SOCKET}
# Names that are words of the language.
_FIELDS = {"from": "from_ms", "to": "to_ms"}
