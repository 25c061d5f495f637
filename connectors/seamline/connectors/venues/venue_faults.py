"""The faults of a simulated venue, written as a line of text.

Decides: which kinds of faults there are, what each may be told, which texts make no sense.
Invariants: a text means the same in every run; a text that could never cause anything is refused,
with what is near and how to put it right. Must not know: sockets, clocks, markets; who decides
whether a fault strikes (`fault_plan`).

Syntax: faults are separated by `;`, each is `kind` or `kind:key=value,key=value`.

What happens to frames of a socket, each frame to at most one (the first fault that hits it):

    lose-frames          a frame never comes
    duplicate-frames     it comes twice, one after the other
    reorder-frames       it comes after the next frame of its stream
    delay-frames:by=2s   it comes so much later (simulated time); others overtake it
    malformed-frames     it comes as bytes that are no message of the venue
    oversized-frames     it comes with more bytes than a client takes (over 1 MiB)
    wrong-symbol         it says that it is of another symbol: `as=unlisted` (a symbol that is not
                         listed), `listed` (another one that is), `inner` (only inside the kline);
                         by chance one of the three without `as`
    drop-socket          the socket breaks instead of this frame, without a close frame

What happens to the venue:

    drop-socket:at=+10m                all sockets break at this simulated time
    shutdown:at=+10m,notice=10m        all sockets are sent `serverShutdown`, and those that are
                                       still open `notice` later are closed with 1001
    outage:from=+10m,to=+14m           REST and handshakes are answered with 503, sockets break; the
                                       market trades on, history is whole; only=rest or only=ws
    halt:from=+10m,to=+14m             an outage in which nobody trades: no klines, trade ids join
    lose-history:at=+10m               history, sockets and trades lack this minute: trade ids jump
    correct-klines:p=0.01,after=5m     history shows other values from `after` (5m) past the close
    slow-rest:p=0.1,by=3s              an answer comes so much later (real time)
    limit-rest:p=0.1,status=429,retry_after=2s
                                       a request is refused; 418 bans for so long (real seconds)
    clock:by=-90s,from=+10m,to=+20m    server time and event times are off by so much

Which frames, minutes or requests:

    p=0.05               each with this probability
    every=40             each 40th frame of a socket, request, or minute since 1970
    at=+10m|+11m         the klines of these minutes; for drop-socket and shutdown, these times
    from=+5m,to=+9m      bounds p and every to a half-open span of simulated time
    symbol=BTC/USDT      only frames and minutes of this symbol
    only=closed          only klines that are closed (or `open`)

A time is `+10m` after the simulated start, or an ISO time with a zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_MS, parse_duration, parse_time

FAULTS_MAX = 64
TIMES_MAX = 1_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SLOW_MAX_MS = 600_000
OUTAGE, HALT, CLOCK, SHUTDOWN = "outage", "halt", "clock", "shutdown"
LOSE_HISTORY, CORRECT_KLINES = "lose-history", "correct-klines"
DROP_SOCKET, SLOW_REST, LIMIT_REST = "drop-socket", "slow-rest", "limit-rest"
ONLY_FRAMES = ("any", "closed", "open")
ONLY_SIDES = ("both", "rest", "ws")
DISGUISES = ("any", "unlisted", "listed", "inner")
STATUSES = ("429", "418")


@dataclass(frozen=True, slots=True)
class Fault:
    """One parsed fault. Times are simulated milliseconds; None and 0 are "not given".

    `only` speaks of klines for a fault of frames, of a side of the venue for an outage. `by_ms` is
    signed for `clock`. `after_ms` of corrections and `notice_ms` of shutdowns are simulated,
    `retry_after_s` is real seconds.
    """

    text: str
    kind: str
    p: float = 0.0
    every: int = 0
    at: tuple[int, ...] = ()
    symbol: str | None = None
    only: str = "any"
    from_ms: int | None = None
    to_ms: int | None = None
    by_ms: int = 0
    after_ms: int = 5 * 60_000
    notice_ms: int = 10 * 60_000
    status: int = 429
    retry_after_s: int = 2
    disguise: str = "any"

    def spans(self, at_ms: int) -> bool:
        """Whether the time lies between `from` and `to`."""
        after_from = self.from_ms is None or self.from_ms <= at_ms
        return after_from and (self.to_ms is None or at_ms < self.to_ms)


def parse_faults(text: str, *, start_ns: int) -> tuple[Fault, ...]:
    """The faults of a text in the syntax above; empty text gives none.

    Raises UsageError for an unknown kind or key (naming near ones) and for a value without sense.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) > FAULTS_MAX:
        raise _wrong(f"more than {FAULTS_MAX} faults", len(parts), "Give fewer")
    return tuple(_parse_one(part, start_ns) for part in parts)


def checked_symbols(faults: Iterable[Fault], symbols: Iterable[str]) -> None:
    """Raises UsageError for a fault of a symbol that is none of `symbols`."""
    known = sorted(symbols)
    for fault in faults:
        if fault.symbol is not None and fault.symbol not in known:
            raise _unknown("symbol of a fault", fault.symbol, known)


def _parse_one(text: str, start_ns: int) -> Fault:
    kind, _, rest = text.partition(":")
    kind = kind.strip()
    if kind not in KINDS:
        raise _unknown("kind of fault", kind, KINDS)
    spec = KINDS[kind]
    values: dict[str, object] = {}
    for pair in filter(None, (pair.strip() for pair in rest.split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if key not in spec.keys:
            raise _unknown(f"key of {kind}", key, spec.keys)
        if not equals or not value:
            raise _wrong(f"{key} without a value", pair, f"Write {key}=, and its value")
        field = _FIELDS.get(key, key)
        if field in values:
            raise _wrong(f"{key} is given twice", text, "Give each key once in a fault")
        values[field] = spec.keys[key](value, start_ns)
    missing = [key for key in spec.needs if _FIELDS.get(key, key) not in values]
    if missing:
        raise _wrong(f"{kind} without {' and '.join(missing)}", text, f"Write it like {spec.like}")
    if spec.when and not values.keys() & set(spec.when):
        ways = ", ".join(_LIKE[key] for key in spec.when)
        raise _wrong("never happens", text, f"Say when: {ways}")
    fault = replace(Fault(text, kind, only=spec.only), **values)  # type: ignore[arg-type]
    _check_span(fault, text)
    return fault


def _check_span(fault: Fault, text: str) -> None:
    bounded = fault.from_ms is not None or fault.to_ms is not None
    if bounded and fault.at and not (fault.p or fault.every):
        raise _wrong("from and to bound p and every", text, "Leave them out: at is a time itself")
    if fault.from_ms is not None and fault.to_ms is not None and fault.to_ms <= fault.from_ms:
        raise _wrong("to is not after from", text, "Give the earlier time as from")


def _wrong(message: str, value: object, fix: str) -> UsageError:
    return UsageError(message, parameter="faults", value=value, fix=fix)


def _unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    return _wrong(f"unknown {what}", name, f"Use one of {', '.join(near or names)}")


def _probability(text: str, start_ns: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise _wrong("not a probability above 0 and up to 1", text, "Write it like p=0.01")
    return value


def _count(text: str, start_ns: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise _wrong("not a count of 1 or more", text, "Write it like every=100")
    return int(text)


def _time(text: str, start_ns: int) -> int:
    if text.startswith("+"):
        return (start_ns + parse_duration(text[1:], parameter="faults")) // NS_PER_MS
    return parse_time(text, now_ns=start_ns, parameter="faults") // NS_PER_MS


def _times(text: str, start_ns: int) -> tuple[int, ...]:
    texts = text.split("|")
    if len(texts) > TIMES_MAX:
        raise _wrong(f"more than {TIMES_MAX} times", len(texts), "Use several faults, or every")
    return tuple(_time(part, start_ns) for part in texts)


def _text(text: str, start_ns: int) -> str:
    return text


def _one_of(names: tuple[str, ...]) -> Callable[[str, int], str]:
    def parse(text: str, start_ns: int) -> str:
        if text not in names:
            raise _unknown("value", text, names)
        return text

    return parse


def _duration(least_ms: int, most_ms: int) -> Callable[[str, int], int]:
    def parse(text: str, start_ns: int) -> int:
        value = parse_duration(text, parameter="faults") // NS_PER_MS
        if not least_ms <= value <= most_ms:
            raise _wrong("a duration out of bounds", text, f"From {least_ms} ms to {most_ms} ms")
        return value

    return parse


def _offset(text: str, start_ns: int) -> int:
    """A duration with or without a sign; the text is not empty."""
    sign = -1 if text.startswith("-") else 1
    unsigned = text[1:] if text[0] in "+-" else text
    return sign * _duration(1, DAY_MS)(unsigned, start_ns)


def _whole_seconds(text: str, start_ns: int) -> int:
    value = _duration(1_000, DAY_MS)(text, start_ns)
    if value % 1_000:
        raise _wrong("not whole seconds", text, "Retry-After has no fractions: retry_after=2s")
    return value // 1_000


def _status(text: str, start_ns: int) -> int:
    return int(_one_of(STATUSES)(text, start_ns))


_Parser = Callable[[str, int], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind may be told; what it needs, and at least one of `when`."""

    keys: dict[str, _Parser]
    when: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    like: str = ""
    only: str = "any"


# Names of keys that are words of the language or say too little in code.
_FIELDS = {"from": "from_ms", "to": "to_ms", "by": "by_ms", "after": "after_ms"}
_FIELDS |= {"notice": "notice_ms", "retry_after": "retry_after_s", "as": "disguise"}
_LIKE = {"p": "p=0.01", "every": "every=100", "at": "at=+5m"}
_SPAN: dict[str, _Parser] = {"from": _time, "to": _time}
_CHANCE: dict[str, _Parser] = {"p": _probability, "every": _count, **_SPAN}
_WHEN: dict[str, _Parser] = {**_CHANCE, "at": _times}
_MINUTES: dict[str, _Parser] = {**_WHEN, "symbol": _text}
_FRAMES: dict[str, _Parser] = {**_MINUTES, "only": _one_of(ONLY_FRAMES)}
_ANY_WHEN = ("p", "every", "at")
_FRAME_KIND = Kind(_FRAMES, _ANY_WHEN)
KINDS: dict[str, Kind] = {
    "lose-frames": _FRAME_KIND,
    "duplicate-frames": _FRAME_KIND,
    "reorder-frames": _FRAME_KIND,
    "delay-frames": Kind(
        {**_FRAMES, "by": _duration(1, HOUR_MS)},
        *(_ANY_WHEN, ("by",), "delay-frames:p=0.01,by=2s"),
    ),
    "malformed-frames": _FRAME_KIND,
    "oversized-frames": _FRAME_KIND,
    "wrong-symbol": Kind({**_FRAMES, "as": _one_of(DISGUISES)}, _ANY_WHEN),
    DROP_SOCKET: Kind(_WHEN, _ANY_WHEN),
    SHUTDOWN: Kind({"at": _times, "notice": _duration(0, DAY_MS)}, ("at",)),
    OUTAGE: Kind(
        {**_SPAN, "only": _one_of(ONLY_SIDES)},
        *((), ("from", "to"), "outage:from=+10m,to=+14m", "both"),
    ),
    HALT: Kind(_SPAN, (), ("from", "to"), "halt:from=+10m,to=+14m", "both"),
    LOSE_HISTORY: Kind(_MINUTES, _ANY_WHEN),
    CORRECT_KLINES: Kind({**_MINUTES, "after": _duration(0, 7 * DAY_MS)}, _ANY_WHEN),
    SLOW_REST: Kind(
        {**_CHANCE, "by": _duration(1, SLOW_MAX_MS)},
        *(("p", "every"), ("by",), "slow-rest:p=0.1,by=3s"),
    ),
    LIMIT_REST: Kind({**_CHANCE, "status": _status, "retry_after": _whole_seconds}, ("p", "every")),
    CLOCK: Kind({**_SPAN, "by": _offset}, (), ("by",), "clock:by=-90s,from=+5m,to=+9m"),
}
