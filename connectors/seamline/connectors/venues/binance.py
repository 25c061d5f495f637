"""Binance's public spot REST, as a client: symbols, the venue's clock, history.

Decides: paging, which answers are retried and how long is waited, which authority a row has.
Invariants: every wait and every number of attempts has a limit; a row counts as closed, and as
settled, by the VENUE's clock as read before the request, never by ours, so a simulated or a wrong
local clock changes nothing; nothing is dropped: a row that cannot be read comes out as `Malformed`.
Must not know: Kafka, presets, what rows are for.

    async with BinanceRest(BinanceEndpoints.from_environment(os.environ)) as rest:
        venue = (await rest.resolve(["BTC/USDT"]))["BTC/USDT"]
        async for page in rest.pages(venue, start_ns, end_ns, interval_ns=..., settle_ns=...):
            ...                       # page.columns, page.malformed, page.complete_through_ns

`binance_stream.BinanceStream` is the WebSocket side.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from seamline.connectors.venues.binance_parse import (
    INTERVALS,
    KlineFrame,
    Malformed,
    parse_row,
    rest_columns,
)
from seamline.schemas.columns import BarColumns
from seamline.schemas.errors import SeamlineError, TransportError, UsageError
from seamline.schemas.times import INT64_MAX, NS_PER_MS, NS_PER_S, format_duration, format_time

REST_URL = "https://api.binance.com"
WS_URL = "wss://stream.binance.com:9443"
PAGE_ROWS_MAX = 1_000
ANSWER_BYTES_MAX = 64 * 2**20
RESOLVE_SYMBOLS_MAX = 100
INVALID_SYMBOL = -1121


@dataclass(frozen=True, slots=True)
class BinanceEndpoints:
    """Where the venue is. URLs without a path; a simulator's `rest_url` and `ws_url` fit."""

    rest_url: str = REST_URL
    ws_url: str = WS_URL

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> BinanceEndpoints:
        """The venue itself, unless SEAMLINE_BINANCE_REST_URL and SEAMLINE_BINANCE_WS_URL say other.

        Raises UsageError when only one is given: history and live would be of two venues.
        """
        rest = env.get("SEAMLINE_BINANCE_REST_URL", "").rstrip("/")
        ws = env.get("SEAMLINE_BINANCE_WS_URL", "").rstrip("/")
        if bool(rest) != bool(ws):
            missing = "SEAMLINE_BINANCE_WS_URL" if rest else "SEAMLINE_BINANCE_REST_URL"
            raise UsageError(
                "missing", parameter=missing, value=None, fix="Give both URLs, or none"
            )
        return cls(rest, ws) if rest else cls()


@dataclass(frozen=True, slots=True)
class RestRules:
    """Limits of one client.

    The wait before attempt n+1 is `backoff_ms * 2**(n-1) * (1 + jitter_ratio * u)`, u in 0..1, or
    what the venue says in `Retry-After`; a demand for more than `wait_s_max` is an error at once.
    When the used weight reaches `weight_share` of the limit, requests wait for the next minute.
    """

    attempts: int = 6
    backoff_ms: int = 200
    jitter_ratio: float = 0.25
    wait_s_max: float = 130.0
    timeout_s: float = 10.0
    weight_share: float = 0.9


@dataclass(frozen=True, slots=True)
class VenueSymbol:
    """One symbol of the venue: `BTC/USDT` is `BTCUSDT` there."""

    symbol: str
    venue_symbol: str
    status: str

    def stream(self, kind: str) -> str:
        """The name of a WebSocket stream: kind `kline_1m`, `trade` or `aggTrade`."""
        return f"{self.venue_symbol.lower()}@{kind}"


@dataclass(frozen=True, slots=True)
class KlinePage:
    """Rows of one symbol with `start_ns <= open_time < end_ns`, oldest first.

    `venue_time_ns` is the venue's clock as read before the request; a kline that had not ended then
    has `closed` False. All closed klines of `[start_ns, complete_through_ns)` are in `columns` or
    in `malformed`; `complete_through_ns` is on the grid and at most `end_ns`.
    """

    venue: VenueSymbol
    start_ns: int
    end_ns: int
    complete_through_ns: int
    venue_time_ns: int
    columns: BarColumns
    malformed: tuple[Malformed, ...]


class BinanceRest:
    """A REST client for one event loop. Use as `async with`, or call `close`.

    `sleep` and `uniform` (0..1) are arguments so that tests decide them; `now_ns` stamps received
    times.
    """

    def __init__(
        self,
        endpoints: BinanceEndpoints,
        rules: RestRules | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._rules = rules or RestRules()
        self._endpoints = endpoints
        self._now_ns, self._sleep, self._uniform = now_ns, sleep, uniform
        self._http = httpx.AsyncClient(
            base_url=endpoints.rest_url, timeout=self._rules.timeout_s, follow_redirects=False
        )
        self._venue_ms = 0
        self._offset_ns = 0
        self.used_weight = 0
        self.weight_limit = 6_000
        self.requests = 0
        self.retries = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def offset_ns(self) -> int:
        """Venue clock minus ours at the last `venue_time_ns()`, halfway through its round trip."""
        return self._offset_ns

    async def venue_time_ns(self) -> int:
        """Ask for the venue's clock. Raises TransportError."""
        before_ns = self._now_ns()
        answer = await self._get("/api/v3/time", {})
        after_ns = self._now_ns()
        value = answer.get("serverTime") if isinstance(answer, dict) else None
        if type(value) is not int or not 0 <= value <= INT64_MAX // NS_PER_MS:
            raise self._strange("/api/v3/time", "serverTime is not a time in milliseconds")
        self._venue_ms = max(self._venue_ms, value)
        self._offset_ns = value * NS_PER_MS - (before_ns + after_ns) // 2
        return value * NS_PER_MS

    async def resolve(self, symbols: Sequence[str]) -> dict[str, VenueSymbol]:
        """The venue's names of `BASE/QUOTE` symbols, in the order given.

        Raises UsageError naming near matches for a symbol that the venue does not list, and for
        another form than BASE/QUOTE; TransportError when the venue cannot be asked.
        """
        found: dict[str, VenueSymbol] = {}
        for first in range(0, len(symbols), RESOLVE_SYMBOLS_MAX):
            part = symbols[first : first + RESOLVE_SYMBOLS_MAX]
            names = sorted({symbol.replace("/", "", 1) for symbol in part})
            legible = all(name.isascii() and name.isalnum() for name in names)
            listed = await self._listed(names) if legible else None
            if listed is None:  # the venue does not say which one it does not know
                listed = await self.listings()
            for symbol in part:
                if symbol not in listed:
                    raise _unknown(symbol, await self.listings())
                found[symbol] = listed[symbol]
        return found

    async def listings(self) -> dict[str, VenueSymbol]:
        """All symbols of the venue by `BASE/QUOTE`. A large answer: weight 20, some megabytes."""
        return self._symbols_of(await self._get("/api/v3/exchangeInfo", {}))

    async def newest_ns(self, venue: VenueSymbol, *, interval_ns: int) -> int | None:
        """Open time of the newest kline that history shows, open or closed; None without any.

        Shows where the venue's market is without any clock. Raises TransportError.
        """
        interval = _interval_of(interval_ns)
        params = {"symbol": venue.venue_symbol, "interval": interval, "limit": "1"}
        answer = await self._get("/api/v3/klines", params)
        if not isinstance(answer, list) or len(answer) > 1:
            raise self._strange("/api/v3/klines", "not a list of at most 1 row")
        row = parse_row(answer[0], venue.venue_symbol, interval, 0, 0) if answer else None
        return row.open_ms * NS_PER_MS if isinstance(row, KlineFrame) else None

    async def pages(
        self, venue: VenueSymbol, start_ns: int, end_ns: int, *, interval_ns: int, settle_ns: int
    ) -> AsyncGenerator[KlinePage, None]:
        """History with `start_ns <= open_time < end_ns`, in pages of up to 1000 rows, oldest first.

        The pages follow each other without a hole: each starts where the one before it ends.
        Minutes that the venue has no row for are simply absent. At least one page, empty or not,
        unless the range is empty. Raises UsageError (range, interval), TransportError (after all
        attempts).
        """
        interval = _interval_of(interval_ns)
        if start_ns > end_ns:
            raise UsageError(
                f"after the end {format_time(end_ns)}",
                parameter="start",
                value=format_time(start_ns),
                fix="Give a start before the end",
            )
        while start_ns < end_ns:
            page = await self._page(venue, start_ns, end_ns, interval, interval_ns, settle_ns)
            yield page
            start_ns = page.end_ns

    async def klines(
        self, venue: VenueSymbol, start_ns: int, end_ns: int, *, interval_ns: int, settle_ns: int
    ) -> KlinePage:
        """All pages of a range as one value. The caller bounds the range. Raises as `pages`."""
        pages = [
            page
            async for page in self.pages(
                venue, start_ns, end_ns, interval_ns=interval_ns, settle_ns=settle_ns
            )
        ]
        complete_ns = start_ns
        for page in pages:
            if page.start_ns == complete_ns:  # a page with an open kline ends what is complete
                complete_ns = page.complete_through_ns
        return KlinePage(
            venue=venue,
            start_ns=start_ns,
            end_ns=end_ns,
            complete_through_ns=complete_ns,
            venue_time_ns=min((page.venue_time_ns for page in pages), default=0),
            columns=BarColumns.concat([page.columns for page in pages]),
            malformed=tuple(bad for page in pages for bad in page.malformed),
        )

    async def _page(
        self,
        venue: VenueSymbol,
        start_ns: int,
        end_ns: int,
        interval: str,
        interval_ns: int,
        settle_ns: int,
    ) -> KlinePage:
        # The highest clock seen so far is a lower bound of the venue's clock now: history that had
        # settled by then costs no second question.
        span_ns = min(end_ns - start_ns, PAGE_ROWS_MAX * interval_ns)
        if start_ns + span_ns + interval_ns + settle_ns > self._venue_ms * NS_PER_MS:
            await self.venue_time_ns()
        venue_ms = self._venue_ms
        params = {
            "symbol": venue.venue_symbol,
            "interval": interval,
            "startTime": str(-(-start_ns // NS_PER_MS)),
            "endTime": str(-(-end_ns // NS_PER_MS) - 1),
            "limit": str(PAGE_ROWS_MAX),
        }
        answer = await self._get("/api/v3/klines", params)
        if not isinstance(answer, list) or len(answer) > PAGE_ROWS_MAX:
            raise self._strange("/api/v3/klines", "not a list of at most 1000 rows")
        received_ns = self._now_ns()
        parsed = [
            parse_row(row, venue.venue_symbol, interval, venue_ms, received_ns) for row in answer
        ]
        rows = [row for row in parsed if isinstance(row, KlineFrame)]
        self._check_rows(rows, start_ns, end_ns)
        covered_ns = end_ns
        if len(answer) == PAGE_ROWS_MAX:
            if not rows:
                raise self._strange("/api/v3/klines", "not one row of a full page can be read")
            covered_ns = min(end_ns, rows[-1].open_ms * NS_PER_MS + interval_ns)
        closed_ns = venue_ms * NS_PER_MS // interval_ns * interval_ns
        return KlinePage(
            venue=venue,
            start_ns=start_ns,
            end_ns=covered_ns,
            complete_through_ns=max(start_ns, min(covered_ns, closed_ns)),
            venue_time_ns=venue_ms * NS_PER_MS,
            columns=rest_columns(rows, settle_ns, venue_ms),
            malformed=tuple(row for row in parsed if isinstance(row, Malformed)),
        )

    def _check_rows(self, rows: Sequence[KlineFrame], start_ns: int, end_ns: int) -> None:
        """Paging relies on it: rows are inside what was asked for, each later than the one
        before."""
        before_ms = -(-start_ns // NS_PER_MS) - 1
        for row in rows:
            if row.open_ms <= before_ms or row.open_ms * NS_PER_MS >= end_ns:
                raise self._strange(
                    "/api/v3/klines",
                    f"a row at {row.open_ms} that was not asked for or is out of order",
                )
            before_ms = row.open_ms

    async def _listed(self, names: Sequence[str]) -> dict[str, VenueSymbol] | None:
        """The listings of these venue symbols; None when the venue does not list one of them."""
        try:
            return self._symbols_of(
                await self._get(
                    "/api/v3/exchangeInfo",
                    {"symbols": json.dumps(list(names), separators=(",", ":"))},
                )
            )
        except UsageError as error:
            if error.fields.get("code") == INVALID_SYMBOL:
                return None
            raise

    def _symbols_of(self, answer: Any) -> dict[str, VenueSymbol]:
        try:
            for limit in answer.get("rateLimits", []):
                if limit["rateLimitType"] == "REQUEST_WEIGHT" and limit["interval"] == "MINUTE":
                    self.weight_limit = int(limit["limit"])
            listed = (
                VenueSymbol(
                    f"{entry['baseAsset']}/{entry['quoteAsset']}",
                    *(_name_of(entry["symbol"]), _name_of(entry["status"])),
                )
                for entry in answer["symbols"]
            )
            return {venue.symbol: venue for venue in listed}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._strange("/api/v3/exchangeInfo", f"without {error}") from error

    async def _get(self, path: str, params: Mapping[str, str]) -> Any:
        """The JSON of one answer, with retries. Raises TransportError or UsageError (-1121)."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._rules.attempts),
            wait=self._wait_s,
            retry=retry_if_exception(_worth_another),
            sleep=self._sleep,
            before_sleep=self._count_retry,
            reraise=True,
        )
        return await retrying(self._ask_once, path, params)

    async def _ask_once(self, path: str, params: Mapping[str, str]) -> Any:
        if self.used_weight >= self._rules.weight_share * self.weight_limit:
            await self._sleep(60.0 - self._now_ns() % (60 * NS_PER_S) / NS_PER_S)
            self.used_weight = 0
        self.requests += 1
        body = bytearray()
        try:
            async with self._http.stream("GET", path, params=params) as answer:
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        raise self._strange(path, f"more than {ANSWER_BYTES_MAX} bytes")
        except httpx.HTTPError as error:
            raise TransportError(
                f"the venue cannot be reached: {type(error).__name__} {error}".rstrip(),
                parameter="rest_url",
                value=self._endpoints.rest_url,
                fix="Check the address and the network",
            ) from error
        used = answer.headers.get("X-MBX-USED-WEIGHT-1M", "")
        if is_count(used):
            self.used_weight = int(used)
        try:
            decoded = json.loads(bytes(body))
        except (ValueError, RecursionError):
            decoded = None
        if answer.status_code != 200:
            raise _refusal(path, answer, decoded, self._rules.wait_s_max)
        if decoded is None:
            raise self._strange(path, "not JSON")
        return decoded

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.fields.get("retry_after_s") if isinstance(error, SeamlineError) else None
        if asked is not None:
            return float(asked)
        rules, n = self._rules, state.attempt_number
        wait = rules.backoff_ms * 2.0 ** (n - 1) * (1 + rules.jitter_ratio * self._uniform())
        return min(wait / 1_000, rules.wait_s_max)

    def _count_retry(self, state: RetryCallState) -> None:
        self.retries += 1
        # What was used up is known again after the wait: pacing on the old number would wait twice.
        self.used_weight = 0

    def _strange(self, path: str, message: str) -> TransportError:
        return TransportError(
            f"the venue's answer is strange: {message}",
            parameter="rest_url",
            value=self._endpoints.rest_url + path,
            fix="Check that the address is the venue's",
        )


def _worth_another(error: BaseException) -> bool:
    return isinstance(error, TransportError) and error.retriable


def is_count(text: str) -> bool:
    """Digits that `int` takes: "²" is a digit to Python and no number."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def _name_of(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name: {value!r:.40}")
    return value


def _refusal(path: str, answer: httpx.Response, decoded: Any, wait_s_max: float) -> SeamlineError:
    """The error of an answer that is not 200; `fields` has status, code and retry_after_s."""
    status, code, said = answer.status_code, None, ""
    if isinstance(decoded, dict):
        code, said = decoded.get("code"), str(decoded.get("msg", ""))[:200]
    about: dict[str, Any] = {"status": status, "code": code}
    if status in (418, 429):
        header = answer.headers.get("Retry-After", "")
        wait_s = float(header) if is_count(header) else 60.0
        return TransportError(
            f"the venue limits requests: HTTP {status}, again in {wait_s:.0f} s",
            parameter="rest_url",
            value=path,
            fix="Ask less at once, or wait",
            retriable=wait_s <= wait_s_max,
            retry_after_s=wait_s,
            **about,
        )
    if code == INVALID_SYMBOL:
        return UsageError("the venue does not list it", parameter="symbols", value=said, **about)
    return TransportError(
        f"the venue refused the request: HTTP {status} {said}".rstrip(),
        parameter="rest_url",
        value=path,
        fix="Try again later" if status >= 500 else "Check what was asked for and from where",
        retriable=status >= 500,
        **about,
    )


def _unknown(symbol: str, known: Mapping[str, VenueSymbol]) -> UsageError:
    near = [name for name, venue in known.items() if venue.venue_symbol == symbol.upper()]
    near += get_close_matches(symbol.upper(), known, n=3, cutoff=0.6)
    near = list(dict.fromkeys(near))
    return UsageError(
        "the venue does not list it",
        parameter="symbols",
        value=symbol,
        fix=f"Write BASE/QUOTE in capitals; near: {', '.join(near) or 'none'}",
        near=tuple(near),
    )


def _interval_of(interval_ns: int) -> str:
    if interval_ns not in INTERVALS:
        raise UsageError(
            "the venue has no klines of this length",
            parameter="interval_ns",
            value=format_duration(interval_ns),
            fix=f"Use one of {', '.join(INTERVALS.values())}",
        )
    return INTERVALS[interval_ns]
