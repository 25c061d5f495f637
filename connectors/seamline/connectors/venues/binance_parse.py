"""What Binance sends, parsed once: WebSocket frames and REST rows become values, or `Malformed`.

Decides: which bytes are a kline, a trade, a reply or a notice. Invariants: pure; never raises for
bytes from outside; decimal texts become float64 here and nowhere else, so the same text gives the
same bits over REST and WebSocket; `-0.0` becomes `0.0`; what is not understood keeps its bytes and
a reason. A kline off the grid or with high < low is a kline: judging values is not parsing. Must
not know: sockets, HTTP, clocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seamline.schemas.columns import (
    NULL_INT,
    REST_FRESH,
    REST_SETTLED,
    WS_CLOSED,
    WS_OPEN,
    BarColumns,
)
from seamline.schemas.times import INT64_MAX, NS_PER_MS, parse_duration

_DECIMAL = re.compile(r"-?\d{1,30}(\.\d{1,30})?", re.ASCII)
_MS_MAX = INT64_MAX // NS_PER_MS
_INTERVAL_TEXTS = ["1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"]
INTERVALS: dict[int, str] = {
    parse_duration(text, parameter="interval"): text for text in _INTERVAL_TEXTS
}


@dataclass(frozen=True, slots=True)
class KlineFrame:
    """One kline of a frame or of a REST row. Ids and `trades` are -1 where the venue gives none."""

    venue_symbol: str
    interval: str
    event_ms: int
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades: int
    first_trade_id: int
    last_trade_id: int
    closed: bool
    received_ns: int


@dataclass(frozen=True, slots=True)
class TradeFrame:
    """One `trade`, or one `aggTrade` with the ids of its first and last trade."""

    venue_symbol: str
    event_ms: int
    first_trade_id: int
    last_trade_id: int
    price: float
    size: float
    time_ms: int
    buyer_is_maker: bool
    aggregate: bool
    received_ns: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a control message. `code` is None where the message was accepted."""

    id: int | str | None
    result: Any
    code: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Notice:
    """An event about the connection itself: `serverShutdown`."""

    event: str
    event_ms: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are nothing known. `reason` is a code; `venue_symbol` is given where it was
    legible. `size` is how many bytes there were, where `raw` could not be kept; else None."""

    raw: bytes
    reason: str
    venue_symbol: str | None
    received_ns: int
    size: int | None = None


Frame = KlineFrame | TradeFrame | Reply | Notice | Malformed
NOTICES = frozenset({"serverShutdown"})


class _BadError(Exception):
    """Inside this module: a value is not what its field holds; the text is the reason."""


def parse_frame(raw: bytes, received_ns: int) -> Frame:
    """One WebSocket message, with or without the envelope of combined streams.

    Reasons of `Malformed`: `not_json`, `not_an_object`, `unknown_event`, `bad_<field>`,
    `missing_<field>`; `bad_stream` where the envelope names another symbol's stream, so that the
    values would be taken for a symbol that they are not of. Never raises.
    """
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return Malformed(raw, "not_json", None, received_ns)
    stream: object = None
    if isinstance(message, dict) and "stream" in message and "data" in message:
        stream, message = message["stream"], message["data"]
    if not isinstance(message, dict):
        return Malformed(raw, "not_an_object", None, received_ns)
    symbol = message.get("s")
    legible = symbol if isinstance(symbol, str) and len(symbol) <= 64 and _is_text(symbol) else None
    try:
        frame = _frame_of(message, received_ns)
        if isinstance(frame, KlineFrame | TradeFrame):
            _check_stream(stream, frame.venue_symbol)
        return frame
    except _BadError as bad:
        return Malformed(raw, str(bad), legible, received_ns)


def _frame_of(message: dict[str, Any], received_ns: int) -> Frame:
    event = message.get("e")
    if event == "kline":
        return _kline_of(message, received_ns)
    if event in ("trade", "aggTrade"):
        return _trade_of(message, event == "aggTrade", received_ns)
    if isinstance(event, str) and event in NOTICES:
        return Notice(event, _integer(message, "E"), received_ns)
    if event is None:
        error = message.get("error", message)
        if isinstance(error, dict) and isinstance(error.get("code"), int):
            return Reply(message.get("id"), None, error["code"], str(error.get("msg", "")))
        if "result" in message:
            return Reply(message.get("id"), message["result"], None, "")
    raise _BadError("unknown_event")


def _check_stream(stream: object, venue_symbol: str) -> None:
    if stream is None:
        return
    if not isinstance(stream, str) or stream.partition("@")[0] != venue_symbol.lower():
        raise _BadError("bad_stream")


def _kline_of(message: dict[str, Any], received_ns: int) -> KlineFrame:
    k = message.get("k")
    if not isinstance(k, dict):
        raise _BadError("bad_k")
    closed, symbol = k.get("x"), _text(k, "s")
    if not isinstance(closed, bool):
        raise _BadError("bad_x")
    if symbol != _text(message, "s"):
        raise _BadError("bad_s")
    return KlineFrame(
        venue_symbol=symbol,
        interval=_text(k, "i"),
        event_ms=_milliseconds(message, "E"),
        open_ms=_milliseconds(k, "t"),
        open=_decimal(k, "o"),
        high=_decimal(k, "h"),
        low=_decimal(k, "l"),
        close=_decimal(k, "c"),
        volume=_decimal(k, "v"),
        quote_volume=_decimal(k, "q"),
        trades=_integer(k, "n"),
        first_trade_id=_integer(k, "f"),
        last_trade_id=_integer(k, "L"),
        closed=closed,
        received_ns=received_ns,
    )


def _trade_of(message: dict[str, Any], aggregate: bool, received_ns: int) -> TradeFrame:
    first, last = ("f", "l") if aggregate else ("t", "t")
    maker = message.get("m")
    if not isinstance(maker, bool):
        raise _BadError("bad_m")
    return TradeFrame(
        venue_symbol=_text(message, "s"),
        event_ms=_milliseconds(message, "E"),
        first_trade_id=_integer(message, first),
        last_trade_id=_integer(message, last),
        price=_decimal(message, "p"),
        size=_decimal(message, "q"),
        time_ms=_milliseconds(message, "T"),
        buyer_is_maker=maker,
        aggregate=aggregate,
        received_ns=received_ns,
    )


ROW_FIELDS = ("open_ms", "open", "high", "low", "close", "volume", "close_ms", "quote_volume", "n")


def parse_row(
    row: Any, venue_symbol: str, interval: str, closes_before_ms: int, received_ns: int
) -> KlineFrame | Malformed:
    """One row of `/api/v3/klines`. It is closed when its interval ends at or before
    `closes_before_ms`, the venue's clock as read before the request. Never raises.
    """
    if not isinstance(row, list) or len(row) < len(ROW_FIELDS):
        return Malformed(_dumped(row), "not_a_row", venue_symbol, received_ns)
    fields = dict(zip(ROW_FIELDS, row, strict=False))
    try:
        open_ms = _milliseconds(fields, "open_ms")
        return KlineFrame(
            venue_symbol=venue_symbol,
            interval=interval,
            event_ms=closes_before_ms,
            open_ms=open_ms,
            open=_decimal(fields, "open"),
            high=_decimal(fields, "high"),
            low=_decimal(fields, "low"),
            close=_decimal(fields, "close"),
            volume=_decimal(fields, "volume"),
            quote_volume=_decimal(fields, "quote_volume"),
            trades=_integer(fields, "n"),
            first_trade_id=NULL_INT,
            last_trade_id=NULL_INT,
            closed=open_ms + _length_ms(interval) <= closes_before_ms,
            received_ns=received_ns,
        )
    except _BadError as bad:
        return Malformed(_dumped(row), str(bad), venue_symbol, received_ns)


def ws_columns(frames: Sequence[KlineFrame]) -> BarColumns:
    """Landing bars of WebSocket klines, in the order given: `ws_closed`, or `ws_open` where
    open."""
    source = [WS_CLOSED if frame.closed else WS_OPEN for frame in frames]
    return _columns(frames, source)


def rest_columns(frames: Sequence[KlineFrame], settle_ns: int, closes_before_ms: int) -> BarColumns:
    """Landing bars of REST rows asked for when the venue's clock was `closes_before_ms`:
    `rest_settled` where the close was at least `settle_ns` ago, `rest_fresh` otherwise.
    """
    settled_ns = closes_before_ms * NS_PER_MS - settle_ns
    source = [
        REST_SETTLED
        if (frame.open_ms + _length_ms(frame.interval)) * NS_PER_MS <= settled_ns
        else REST_FRESH
        for frame in frames
    ]
    return _columns(frames, source)


def _columns(frames: Sequence[KlineFrame], source: Sequence[int]) -> BarColumns:
    return BarColumns(
        open_time_ns=np.array([f.open_ms for f in frames], np.int64) * NS_PER_MS,
        open=np.array([f.open for f in frames], np.float64),
        high=np.array([f.high for f in frames], np.float64),
        low=np.array([f.low for f in frames], np.float64),
        close=np.array([f.close for f in frames], np.float64),
        volume=np.array([f.volume for f in frames], np.float64),
        quote_volume=np.array([f.quote_volume for f in frames], np.float64),
        trades=np.array([f.trades for f in frames], np.int64),
        first_trade_id=np.array([f.first_trade_id for f in frames], np.int64),
        last_trade_id=np.array([f.last_trade_id for f in frames], np.int64),
        source=np.array(source, np.uint8),
        closed=np.array([f.closed for f in frames], np.bool_),
        received_time_ns=np.array([f.received_ns for f in frames], np.int64),
    )


_LENGTHS_MS = {text: length_ns // NS_PER_MS for length_ns, text in INTERVALS.items()}


def _length_ms(interval: str) -> int:
    return _LENGTHS_MS[interval]


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value or not _is_text(value):
        raise _bad(fields, name)
    return value


def _is_text(value: str) -> bool:
    """Not half of a pair: JSON can say such a character, and nothing can write it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not -INT64_MAX <= value <= INT64_MAX:
        raise _bad(fields, name)
    return value


def _milliseconds(fields: dict[str, Any], name: str) -> int:
    """A time whose nanoseconds fit int64."""
    value = _integer(fields, name)
    if not -_MS_MAX <= value <= _MS_MAX:
        raise _bad(fields, name)
    return value


def _decimal(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, str) or _DECIMAL.fullmatch(value) is None:
        raise _bad(fields, name)
    return float(value) + 0.0  # -0.0 + 0.0 is 0.0


def _bad(fields: dict[str, Any], name: str) -> _BadError:
    return _BadError(f"{'bad' if name in fields else 'missing'}_{name}")


def _dumped(value: Any) -> bytes:
    """The text of a REST row again; the answer that held it is not kept."""
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        return b"nested too deeply to be written again"
