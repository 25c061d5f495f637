"""The JSON of Binance's public spot protocol, as the venue writes it: keys, their order, their
types.

Decides: shapes only. Frames equal in shape the recordings in `tests/data/binance_ws`. Must not
know: where values come from, sockets, HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seamline.connectors.venues.market import MINUTE_MS, Kline, Listing, Trade

WEIGHTS = {"ping": 1, "time": 1, "exchangeInfo": 20, "klines": 2}
# The intervals that Binance knows; a simulated venue keeps the first.
INTERVAL = "1m"


def kline_event(venue_symbol: str, kline: Kline, event_ms: int, closed: bool) -> dict[str, Any]:
    return {
        "e": "kline",
        "E": event_ms,
        "s": venue_symbol,
        "k": {
            "t": kline.open_ms,
            "T": kline.open_ms + MINUTE_MS - 1,
            "s": venue_symbol,
            "i": INTERVAL,
            "f": kline.first_id,
            "L": kline.last_id,
            "o": kline.open,
            "c": kline.close,
            "h": kline.high,
            "l": kline.low,
            "v": kline.volume,
            "n": kline.trades,
            "x": closed,
            "q": kline.quote_volume,
            "V": kline.taker_volume,
            "Q": kline.taker_quote_volume,
            "B": "0",
        },
    }


def kline_row(kline: Kline) -> list[Any]:
    """One row of `/api/v3/klines`. It says neither whether the kline is closed nor its trade
    ids."""
    return [
        kline.open_ms,
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.open_ms + MINUTE_MS - 1,
        kline.quote_volume,
        kline.trades,
        kline.taker_volume,
        kline.taker_quote_volume,
        "0",
    ]


def trade_event(venue_symbol: str, trade: Trade, event_ms: int) -> dict[str, Any]:
    return {
        "e": "trade",
        "E": event_ms,
        "s": venue_symbol,
        "t": trade.id,
        "p": trade.price,
        "q": trade.size,
        "T": trade.time_ms,
        "m": trade.buyer_is_maker,
        "M": True,
    }


def agg_trade_event(venue_symbol: str, trade: Trade, event_ms: int) -> dict[str, Any]:
    """An aggregate of one trade: here no two trades share taker order, time and price."""
    return {
        "e": "aggTrade",
        "E": event_ms,
        "s": venue_symbol,
        "a": trade.id,
        "p": trade.price,
        "q": trade.size,
        "f": trade.id,
        "l": trade.id,
        "T": trade.time_ms,
        "m": trade.buyer_is_maker,
        "M": True,
    }


def shutdown_event(event_ms: int) -> dict[str, Any]:
    """Sent about ten minutes before the venue ends a connection; never in an envelope."""
    return {"e": "serverShutdown", "E": event_ms}


def exchange_info(listings: Iterable[Listing], now_ms: int, weight_limit: int) -> dict[str, Any]:
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": weight_limit,
            }
        ],
        "exchangeFilters": [],
        "symbols": [_symbol_info(listing) for listing in listings],
    }


def _symbol_info(listing: Listing) -> dict[str, Any]:
    tick, step = _step(listing.price_decimals), _step(listing.size_decimals)
    price_filter = {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000"}
    lot_filter = {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000.00000000"}
    return {
        "symbol": listing.venue_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "filters": [price_filter | {"tickSize": tick}, lot_filter | {"stepSize": step}],
        "permissions": ["SPOT"],
    }


def _step(decimals: int) -> str:
    return f"{10.0 ** -min(decimals, 8):.8f}"


def error_body(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "msg": message}
