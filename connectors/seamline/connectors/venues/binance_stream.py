"""One WebSocket connection to Binance's combined streams, as a client.

Decides: how a connection is made, subscribed and watched. Invariants: frames come in the order of
the socket and none is left out, malformed ones included; a connection that is lost, silent or
refused ends with a TransportError that says which, never with silence; nothing here connects again:
that is the caller's, who knows what was missed. Back-pressure is the socket's own: who reads slowly
makes the venue wait, and in the end disconnect. Must not know: Kafka, holes, reconnect policy.

    async with BinanceStream(endpoints, [venue.stream("kline_1m")]) as stream:
        async for frame in stream.frames():
            ...                       # KlineFrame | TradeFrame | Reply | Notice | Malformed
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from seamline.connectors.venues.binance import BinanceEndpoints
from seamline.connectors.venues.binance_parse import Frame, Reply, parse_frame
from seamline.schemas.errors import TransportError, UsageError

STREAMS_MAX = 1_024
STREAMS_PER_MESSAGE = 200
HELD_FRAMES_MAX = 20_000
TOO_BIG = 1009
_STATED_BYTES = re.compile(r"with (\d{1,18}) bytes", re.ASCII)


@dataclass(frozen=True, slots=True)
class StreamRules:
    """Limits of one connection, in real seconds.

    Binance's spot documentation ("WebSocket Streams": "General WSS information", "Websocket
    Limits"): at most 1,024 streams a connection; at most 5 messages a second to the venue, pings,
    pongs and control messages together, so a control message every `between_messages_s` leaves
    room for the answers to its pings; it pings every 20 s and expects the pong within a minute.
    Its pings are answered while the socket is read. We ping too: who does not answer within
    `ping_interval_s + ping_timeout_s` is gone, however open the connection looks. `silence_s` is
    the longest time without any frame; None leaves that to the caller. A frame of more than
    `frame_bytes_max` ends the connection.
    """

    open_timeout_s: float = 10.0
    reply_timeout_s: float = 10.0
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    silence_s: float | None = 75.0
    frame_bytes_max: int = 2**20
    between_messages_s: float = 0.3


class BinanceStream:
    """A connection that is subscribed when `async with` has entered.

    Raises, on entering: UsageError for no or too many streams; TransportError when the venue cannot
    be reached or refuses (with `status` and `retry_after_s`, what it said of them, or None).
    `now_ns` stamps the received time of frames; `sleep` paces control messages.
    """

    def __init__(
        self,
        endpoints: BinanceEndpoints,
        streams: Sequence[str],
        rules: StreamRules | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not 1 <= len(streams) <= STREAMS_MAX:
            raise UsageError(
                f"outside 1 to {STREAMS_MAX}",
                parameter="streams",
                value=len(streams),
                fix="Spread the symbols over several connections",
            )
        self._url = endpoints.ws_url + "/stream"
        self._streams, self._rules = tuple(streams), rules or StreamRules()
        self._now_ns, self._sleep = now_ns, sleep
        self._socket: ClientConnection | None = None
        self._held: deque[tuple[bytes, Frame]] = deque()
        self._last_id = 0

    async def __aenter__(self) -> Self:
        rules = self._rules
        try:
            self._socket = await connect(
                self._url,
                open_timeout=rules.open_timeout_s,
                ping_interval=rules.ping_interval_s,
                ping_timeout=rules.ping_timeout_s,
                close_timeout=1.0,
                max_size=rules.frame_bytes_max,
                compression=None,
            )
        except InvalidStatus as error:
            status, header = error.response.status_code, error.response.headers.get("Retry-After")
            wait_s = float(header) if header and header.isdigit() else None
            text = f"the handshake was refused: HTTP {status}"
            raise self._lost(text, status=status, retry_after_s=wait_s) from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            raise self._lost(f"cannot connect: {type(error).__name__} {error}") from error
        try:
            for first in range(0, len(self._streams), STREAMS_PER_MESSAGE):
                if first:
                    await self._sleep(rules.between_messages_s)
                await self._control("SUBSCRIBE", self._streams[first : first + STREAMS_PER_MESSAGE])
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; `frames()` ends with a TransportError then."""
        if self._socket is not None:
            await self._socket.close()

    async def frames(self) -> AsyncIterator[Frame]:
        """Every frame, for ever. Raises TransportError when the connection is lost (with `code`,
        the close code or None; `oversized` and, where known, `size`, when a frame was too big), or
        when nothing came for `silence_s` (`silent` True).
        """
        async for _, frame in self.messages():
            yield frame

    async def messages(self) -> AsyncIterator[tuple[bytes, Frame]]:
        """As `frames()`, each with the bytes that it came as."""
        while True:
            while self._held:
                yield self._held.popleft()
            yield await self._next(self._rules.silence_s)

    async def _control(self, method: str, streams: Sequence[str]) -> None:
        """Send one control message and wait for its reply; frames that come before it are held."""
        assert self._socket is not None
        self._last_id += 1
        message = {"method": method, "params": list(streams), "id": self._last_id}
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed as error:
            raise self._closed(error) from error
        deadline = time.monotonic() + self._rules.reply_timeout_s
        while True:
            raw, frame = await self._next(max(deadline - time.monotonic(), 0.0))
            if isinstance(frame, Reply) and frame.id == self._last_id:
                if frame.code is not None:
                    raise self._lost(f"{method} was refused: {frame.code} {frame.message}")
                return
            if len(self._held) == HELD_FRAMES_MAX:
                raise self._lost(f"no reply to {method} among {HELD_FRAMES_MAX} frames")
            self._held.append((raw, frame))

    async def _next(self, timeout_s: float | None) -> tuple[bytes, Frame]:
        assert self._socket is not None
        try:
            async with asyncio.timeout(timeout_s):
                raw = await self._socket.recv(decode=False)
        except TimeoutError as error:
            raise self._lost(f"nothing came for {timeout_s:.0f} s", silent=True) from error
        except ConnectionClosed as error:
            raise self._closed(error) from error
        return raw, parse_frame(raw, self._now_ns())

    def _closed(self, error: ConnectionClosed) -> TransportError:
        code = error.rcvd.code if error.rcvd is not None else None
        oversized = error.sent is not None and error.sent.code == TOO_BIG
        stated = _STATED_BYTES.search(error.sent.reason) if oversized and error.sent else None
        size = int(stated[1]) if stated else None
        text = f"the connection was lost: {error}"
        return self._lost(text, code=code, oversized=oversized, size=size)

    def _lost(self, message: str, **fields: Any) -> TransportError:
        return TransportError(
            message,
            parameter="ws_url",
            value=self._url,
            fix="Connect again; check the address and the network if that fails",
            **fields,
        )
