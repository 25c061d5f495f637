"""The REST side of the venue simulator: what each request is answered.

Decides: answers, their codes and headers, which of outage, limit and weight refuses. Invariants:
REST and WebSocket show the same market at the same simulated time; the last kline of `/klines` is
open when its minute is; a request is refused by at most one cause: the outage, then the ban or the
limit of a fault, then weight. Must not know: sockets, whether a fault strikes (`fault_plan`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from seamline.connectors.venues.binance_shapes import (
    INTERVAL,
    WEIGHTS,
    error_body,
    exchange_info,
    kline_row,
)
from seamline.connectors.venues.fault_plan import FaultPlan, RequestFate
from seamline.connectors.venues.faulty_market import FaultyMarket
from seamline.connectors.venues.market import MINUTE_MS
from seamline.connectors.venues.simulated_clock import SimulatedClock
from seamline.connectors.venues.venue_events import dumped
from seamline.connectors.venues.weight_limit import Admission, WeightLimit, WeightRules
from seamline.schemas.times import NS_PER_MS

KLINES_MAX = 1_000
KLINES_DEFAULT = 500

Reply = tuple[int, Any]
Handler = Callable[[web.Request], Awaitable[web.Response]]


class RestSide:
    """`note` counts one strike of a fault, by its number."""

    def __init__(
        self,
        market: FaultyMarket,
        clock: SimulatedClock,
        plan: FaultPlan,
        weights: WeightRules,
        note: Callable[..., None],
    ) -> None:
        self._market, self._clock, self._plan, self._note = market, clock, plan, note
        self._limit, self._weights = WeightLimit(weights), weights
        self._number = 0
        self.requests: Counter[str] = Counter()

    @property
    def used_weight(self) -> int:
        return self._limit.used

    def handlers(self) -> dict[str, Handler]:
        """By the last part of the path."""
        answers: dict[str, Callable[[web.Request], Reply]] = {
            "ping": self._ping,
            "time": self._time,
            "exchangeInfo": self._exchange_info,
            "klines": self._klines,
        }
        return {name: self._weighed(name, answer) for name, answer in answers.items()}

    def _weighed(self, name: str, reply: Callable[[web.Request], Reply]) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            self._number += 1
            now_ms = self._now_ms()
            fate = self._plan.request(self._number, now_ms)
            status, body, headers = self._admitted(name, now_ms, fate)
            if status == 200:
                status, body = reply(request)
            self.requests[f"{name} {status}"] += 1
            if fate.slowed_by >= 0:
                # It was asked and answered in time, and is late on its way.
                self._note(fate.slowed_by, time_ms=now_ms, path=name, ms=fate.slow_ms)
                await asyncio.sleep(fate.slow_ms / 1_000)
            return web.json_response(body, status=status, headers=headers, dumps=dumped)

        return answer

    def _admitted(
        self, name: str, now_ms: int, fate: RequestFate
    ) -> tuple[int, Any, dict[str, str]]:
        """200, or the refusal of one request; each is counted once."""
        down = self._plan.down("rest", now_ms)
        if down >= 0:
            self._note(down, time_ms=now_ms, refused=name)
            text = "Internal error; unable to process your request. Please try again."
            return 503, error_body(-1001, text), {}
        now_s = time.monotonic()
        admission = self._limit.banned(now_s)
        if admission is None and fate.refused_by >= 0:
            self._note(fate.refused_by, time_ms=now_ms, refused=name, status=fate.status)
            if fate.status == 418:
                self._limit.ban(now_s, fate.retry_after_s)
            admission = Admission(fate.status, self._limit.used, fate.retry_after_s)
        if admission is None:
            admission = self._limit.admit(WEIGHTS[name], now_s)
        headers = {
            "X-MBX-USED-WEIGHT": str(admission.used),
            "X-MBX-USED-WEIGHT-1M": str(admission.used),
        }
        if admission.status == 200:
            return 200, None, headers
        headers["Retry-After"] = str(admission.retry_after_s)
        return admission.status, error_body(-1003, _too_much(admission.status)), headers

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    def _shown_ms(self) -> int:
        shown_ms, fault = self._plan.clock(self._now_ms())
        if fault >= 0:
            self._note(fault)
        return shown_ms

    def _ping(self, request: web.Request) -> Reply:
        return 200, {}

    def _time(self, request: web.Request) -> Reply:
        return 200, {"serverTime": self._shown_ms()}

    def _exchange_info(self, request: web.Request) -> Reply:
        listings = list(self._market.listings.values())
        asked = _asked_symbols(request.query)
        if asked is not None:
            if not asked <= self._market.listings.keys():
                return 400, error_body(-1121, "Invalid symbol.")
            listings = [listing for listing in listings if listing.venue_symbol in asked]
        return 200, exchange_info(listings, self._shown_ms(), self._weights.limit)

    def _klines(self, request: web.Request) -> Reply:
        query = request.query
        for name in ("symbol", "interval"):
            if not query.get(name):
                text = f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
                return 400, error_body(-1102, text)
        if query["symbol"] not in self._market.listings:
            return 400, error_body(-1121, "Invalid symbol.")
        if query["interval"] != INTERVAL:
            return 400, error_body(-1120, "Invalid interval.")
        numbers: dict[str, int] = {}
        for name in ("limit", "startTime", "endTime"):
            text = query.get(name, "")
            if name in query:
                if not (text.isascii() and text.isdigit() and len(text) <= 18):
                    legal = f"Illegal characters found in parameter '{name}'; legal range is"
                    return 400, error_body(-1100, f"{legal} '^[0-9]{{1,20}}$'.")
                numbers[name] = int(text)
        limit = min(numbers.get("limit", KLINES_DEFAULT), KLINES_MAX)
        if limit == 0:
            return 400, error_body(-1130, "Data sent for parameter 'limit' is not valid.")
        return 200, self._rows(query["symbol"], numbers.get("startTime"), numbers, limit)

    def _rows(
        self, venue_symbol: str, start_ms: int | None, numbers: Mapping[str, int], limit: int
    ) -> list[list[Any]]:
        """Both ends are inclusive and speak of open times. Without a start: the newest ones."""
        now_ms = self._now_ms()
        end_ms = min(numbers.get("endTime", now_ms), now_ms) + 1
        klines = self._market.page(
            venue_symbol, start_ms or 0, end_ms, limit, newest=start_ms is None
        )
        if klines and klines[-1].open_ms + MINUTE_MS > now_ms:
            still_open = self._market.as_of(venue_symbol, klines[-1].open_ms, now_ms)
            klines[-1:] = [] if still_open is None else [still_open]
        stated = (self._market.in_history(venue_symbol, kline, now_ms) for kline in klines)
        return [kline_row(kline) for kline in stated]


def _asked_symbols(query: Mapping[str, str]) -> set[str] | None:
    if "symbol" in query:
        return {query["symbol"]}
    if "symbols" in query:
        return {part.strip('" ') for part in query["symbols"].strip("[]").split(",")}
    return None


def _too_much(status: int) -> str:
    if status == 418:
        return "Way too much request weight used; IP banned. Please use WebSocket Streams."
    return "Too much request weight used. Please use WebSocket Streams for live updates."
