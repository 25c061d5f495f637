"""Which sockets a share of a venue's streams has: one, and two while one relieves the other.

Decides: when a socket is opened (none stands, or the only one is leaving and the ladder and the
window of attempts allow it), when one is closed (relieved by a newer one, or silent while the
venue's clock went on), and whether a newly subscribed socket follows without a break on one that
stands. Invariants: at most two sockets stand; the older one of two is closed only after the newer
one gave its first frame and a moment for what was on its way, or after a bound; attempts of all
shares together never exceed the window. Must not know: websockets, what frames hold, clocks:
`venue_ns` is the venue's clock, `local_ns` a monotonic local one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from seamline.streams.kernel.feed import Ladder

NS_PER_S = 1_000_000_000
LADDER_MS = (250, 500, 1_000, 2_000, 5_000, 10_000, 30_000)


@dataclass(frozen=True, slots=True)
class RotaRules:
    """When sockets are relieved. `life_ns` is the venue's time, the others are local time.

    Binance cuts a socket after 24 hours, spot "WebSocket Streams", "General WSS information":
    a socket leaves ten minutes before. It is silent when no frame came for `silence_ns` although
    the venue's clock went on by as much.
    """

    life_ns: int = (24 * 3_600 - 600) * NS_PER_S
    jitter_ns: int = 1_800 * NS_PER_S
    linger_ns: int = NS_PER_S
    relief_ns: int = 10 * NS_PER_S
    silence_ns: int = 75 * NS_PER_S
    ladder_ms: tuple[int, ...] = LADDER_MS


class Why(StrEnum):
    """Why a socket is closed by us."""

    RELIEVED = "relieved"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Open:
    """Open socket `number`, subscribe it, and say `subscribed` or `ended`."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close socket `number`, and say `ended`."""

    number: int
    why: Why


Action = Open | Close


class AttemptWindow:
    """At most so many attempts to connect in a sliding window of local time, over all shares.

    Binance allows 300 per IP in 5 minutes (spot "WebSocket Streams", "Websocket Limits").
    """

    def __init__(self, attempts_max: int = 300, window_ns: int = 300 * NS_PER_S) -> None:
        self._attempts_max = attempts_max
        self._window_ns = window_ns
        self._times: deque[int] = deque()

    def take(self, local_ns: int) -> bool:
        """Whether one more attempt is allowed now; it is counted then."""
        while self._times and self._times[0] <= local_ns - self._window_ns:
            self._times.popleft()
        if len(self._times) >= self._attempts_max:
            return False
        self._times.append(local_ns)
        return True


@dataclass(slots=True)
class _Socket:
    """One socket from the decision to open it to its end. None: not yet."""

    number: int
    life_ns: int
    subscribed_ns: int | None = None
    first_ns: int | None = None
    heard_ns: int = 0
    heard_venue_ns: int = 0
    born_venue_ns: int = 0
    announced: bool = False
    closing: bool = False


class SocketRota:
    """The sockets of one share. Numbers count up from 1; `jitter` in 0..1 shortens a life."""

    def __init__(self, rules: RotaRules, attempts: AttemptWindow) -> None:
        self._rules = rules
        self._attempts = attempts
        self._ladder = Ladder(rules.ladder_ms)
        self._not_before_ns: int | None = None
        self._sockets: dict[int, _Socket] = {}
        self._opened = 0

    @property
    def standing(self) -> int:
        """Sockets that are subscribed and not being closed."""
        return sum(1 for s in self._standing() if s.subscribed_ns is not None)

    def next(self, local_ns: int, venue_ns: int, jitter: float = 0.0) -> list[Action]:
        """What is to be done now. Call it again after each event and every now and then."""
        actions: list[Action] = []
        for socket in self._standing():
            # A venue's clock that jumped back must not make a socket young for ever.
            socket.born_venue_ns = min(socket.born_venue_ns, venue_ns)
            socket.heard_venue_ns = min(socket.heard_venue_ns, venue_ns)
            if self._silent(socket, local_ns, venue_ns):
                actions.append(self._close(socket, Why.SILENT))
        standing = [*self._standing()]
        if len(standing) > 1 and self._relieves(standing[-1], local_ns):
            actions += [self._close(older, Why.RELIEVED) for older in standing[:-1]]
            standing = standing[-1:]
        needed = not standing or (len(standing) == 1 and self._leaves(standing[0], venue_ns))
        ready = self._not_before_ns is None or local_ns >= self._not_before_ns
        if needed and ready and self._attempts.take(local_ns):
            self._opened += 1
            life_ns = self._rules.life_ns - int(jitter * self._rules.jitter_ns)
            self._sockets[self._opened] = _Socket(self._opened, life_ns)
            actions.append(Open(self._opened))
        return actions

    def subscribed(self, number: int, local_ns: int, venue_ns: int) -> bool:
        """The socket gets all frames from here on. Whether another one stood all the while, so
        that nothing was missed."""
        socket = self._sockets[number]
        covered = self.standing > 0
        socket.subscribed_ns = socket.heard_ns = local_ns
        socket.born_venue_ns = socket.heard_venue_ns = venue_ns
        return covered

    def frame(self, number: int, local_ns: int, venue_ns: int) -> None:
        """A frame came: only now is the connection a success."""
        socket = self._sockets[number]
        if socket.first_ns is None:
            socket.first_ns = local_ns
            self._ladder = self._ladder.connected()
        socket.heard_ns, socket.heard_venue_ns = local_ns, venue_ns

    def announced(self, number: int) -> None:
        """The venue says that it will cut this socket."""
        self._sockets[number].announced = True

    def ended(self, number: int, local_ns: int, wait_ns: int = 0) -> int | None:
        """The socket is no more. None where that was planned: we closed it, or the venue did as
        announced and another one stands. Else the pause before the next attempt, in ns: the
        ladder's, or what the venue asked for (`wait_ns`)."""
        socket = self._sockets.pop(number)
        if socket.closing or (socket.announced and self.standing):
            return None
        self._ladder, pause_ms = self._ladder.failed()
        pause_ns = max(pause_ms * 1_000_000, wait_ns)
        self._not_before_ns = local_ns + pause_ns
        return pause_ns

    def _standing(self) -> Iterator[_Socket]:
        return (socket for socket in list(self._sockets.values()) if not socket.closing)

    def _close(self, socket: _Socket, why: Why) -> Close:
        socket.closing = True
        return Close(socket.number, why)

    def _silent(self, socket: _Socket, local_ns: int, venue_ns: int) -> bool:
        if socket.subscribed_ns is None:
            return False
        silence_ns = self._rules.silence_ns
        stands_still = venue_ns - socket.heard_venue_ns < silence_ns
        return local_ns - socket.heard_ns >= silence_ns and not stands_still

    def _relieves(self, newest: _Socket, local_ns: int) -> bool:
        if newest.subscribed_ns is None:
            return False
        if newest.first_ns is None:
            return local_ns - newest.subscribed_ns >= self._rules.relief_ns
        return local_ns - newest.first_ns >= self._rules.linger_ns

    def _leaves(self, socket: _Socket, venue_ns: int) -> bool:
        if socket.subscribed_ns is None:
            return False
        return socket.announced or venue_ns - socket.born_venue_ns >= socket.life_ns
