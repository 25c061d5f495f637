"""A market from recorded bars: a CSV or parquet file with the columns of COLUMNS, one symbol each.

Decides: how a file becomes klines and which files are refused. Invariants: the five texts of a bar
are the file's, unchanged; a minute without a row has no kline at all, neither over WebSocket nor
over REST: the file does not say whether nothing traded or nothing was recorded, so nothing is
invented. What a file does not hold (trades, their ids, quote volume) is synthesised from a seed:
contiguous ids, at least one trade per bar, first at the open, last at the close, high and low among
them, sizes that add up to the volume. Must not know: clocks, sockets, faults.
"""

from __future__ import annotations

import csv
import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

from seamline.connectors.venues.market import (
    MINUTE_MS,
    Kline,
    Listing,
    Trade,
    empty_kline,
    fixed_text,
    kline_of_trades,
    listing_of,
    listings_by_venue_symbol,
    mixed,
)
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_MS

COLUMNS = ("open_time_ms", "open", "high", "low", "close", "volume")
ROWS_MAX = 5_000_000
_DECIMAL = re.compile(r"\d{1,20}(\.\d{1,18})?")
_MILLIS = re.compile(r"\d{1,15}")
_EXPECTED = "Expected columns: " + ",".join(COLUMNS)

Row = tuple[int, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Series:
    """The rows of one file. `first_ids` has one entry more than `rows`: the id after the last."""

    listing: Listing
    rows: list[Row]
    open_ms: list[int]
    first_ids: list[int]
    key: int
    # Made on first use; a kline costs a dozen synthetic trades.
    klines: list[Kline | None]


class FileMarket:
    """Recorded bars as a market; satisfies `Market`.

    `files` maps `BASE/QUOTE` to a `.csv` or `.parquet` file. Raises UsageError naming file, line
    and column for a wrong header or row.
    """

    def __init__(self, files: Mapping[str, Path], seed: int = 0) -> None:
        self._series = {}
        for symbol, path in files.items():
            series = _series_of(symbol, list(read_rows(path)), seed)
            self._series[series.listing.venue_symbol] = series
        self._listings = listings_by_venue_symbol(s.listing for s in self._series.values())

    @property
    def listings(self) -> Mapping[str, Listing]:
        return self._listings

    @property
    def span_ms(self) -> tuple[int, int]:
        """From the first bar's open to the last bar's close, over all symbols."""
        first = min(series.open_ms[0] for series in self._series.values())
        return first, max(series.open_ms[-1] for series in self._series.values()) + MINUTE_MS

    def page(
        self, venue_symbol: str, start_ms: int, end_ms: int, limit: int, newest: bool
    ) -> list[Kline]:
        series = self._series[venue_symbol]
        low, high = bisect_left(series.open_ms, start_ms), bisect_left(series.open_ms, end_ms)
        if newest:
            low = max(low, high - limit)
        return [_kline(series, index) for index in range(low, min(high, low + limit))]

    def as_of(self, venue_symbol: str, open_ms: int, at_ms: int) -> Kline | None:
        series = self._series[venue_symbol]
        index = bisect_left(series.open_ms, open_ms)
        if index == len(series.rows) or series.open_ms[index] != open_ms:
            return None
        if at_ms >= open_ms + MINUTE_MS:
            return _kline(series, index)
        traded = [trade for trade in _trades(series, index) if trade.time_ms <= at_ms]
        if traded:
            return kline_of_trades(open_ms, traded)
        # Before the first trade of its minute a kline shows the last price.
        price = series.rows[index - 1][4] if index else series.rows[0][1]
        return empty_kline(open_ms, price)

    def trades(self, venue_symbol: str, start_ms: int, end_ms: int) -> list[Trade]:
        series = self._series[venue_symbol]
        low = bisect_left(series.open_ms, start_ms - MINUTE_MS + 1)
        found: list[Trade] = []
        for index in range(low, bisect_left(series.open_ms, end_ms)):
            found += (t for t in _trades(series, index) if start_ms <= t.time_ms < end_ms)
        return found


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, checked: whole minutes in rising order, plain decimal texts.

    Raises UsageError naming file, line, column and fix.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(
            "neither .csv nor .parquet", parameter="data", value=str(path), fix=_EXPECTED
        )
    if not path.is_file():
        raise UsageError(
            "no such file", parameter="data", value=str(path), fix="Check the path of the file"
        )
    source = _csv_cells(path) if path.suffix == ".csv" else _parquet_cells(path)
    before = -1
    for count, (line, cells) in enumerate(source):
        if count == ROWS_MAX:
            raise _refused((path, line, COLUMNS[0]), "", f"more than {ROWS_MAX} rows", "Split it")
        row = _row_of(path, line, cells)
        if row[0] <= before:
            raise _refused(
                (path, line, COLUMNS[0]),
                cells[0],
                "not after the row before it",
                "Sort the rows by open time and keep one row per minute",
            )
        before = row[0]
        yield row
    if before < 0:
        raise _refused((path, 2, COLUMNS[0]), "", "a file without rows", "Add bars to it")


def first_open_ns(path: Path) -> int:
    """The open time of the first bar of a file. Raises UsageError as `read_rows` does."""
    return next(read_rows(path))[0] * NS_PER_MS


def _csv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            _check_header(path, next(reader, []))
            for cells in reader:
                if len(cells) != len(COLUMNS):
                    at = COLUMNS[min(len(cells), len(COLUMNS) - 1)]
                    message = f"{len(cells)} cells instead of {len(COLUMNS)}"
                    raise _refused((path, reader.line_num, at), ",".join(cells), message, _EXPECTED)
                yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"not a CSV text in UTF-8: {error}", parameter="data", value=str(path), fix=_EXPECTED
        ) from error


def _parquet_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of a parquet file as texts. A float column gives the shortest text with the same
    bits."""
    import pyarrow.lib
    import pyarrow.parquet

    parquet: Any = pyarrow.parquet  # the package has no annotations
    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, list(file.schema_arrow.names))
            line = 2
            for batch in file.iter_batches(batch_size=65_536):
                columns = [batch.column(name).to_pylist() for name in COLUMNS]
                for values in zip(*columns, strict=True):
                    yield line, [_cell_text(value) for value in values]
                    line += 1
    # Broken pages are told as OSError, a text that is not UTF-8 or a far time as ValueError.
    except (pyarrow.lib.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"not a parquet file: {error}", parameter="data", value=str(path), fix=_EXPECTED
        ) from error


def _cell_text(value: object) -> str:
    if isinstance(value, float | Decimal):
        return f"{Decimal(repr(value)) if isinstance(value, float) else value:f}"
    return "" if value is None else str(value)


def _check_header(path: Path, header: list[str]) -> None:
    for index, name in enumerate(COLUMNS):
        found = header[index] if index < len(header) else ""
        if found != name:
            raise _refused((path, 1, name), found, f"column {index + 1} of the header", _EXPECTED)
    if len(header) > len(COLUMNS):
        extra = header[len(COLUMNS)]
        raise _refused((path, 1, extra), extra, "a column that is not known", _EXPECTED)


def _row_of(path: Path, line: int, cells: list[str]) -> Row:
    if not _MILLIS.fullmatch(cells[0]):
        raise _refused(
            (path, line, COLUMNS[0]),
            cells[0],
            "not a time in whole milliseconds",
            "Write the open time as UTC milliseconds since 1970",
        )
    open_ms = int(cells[0])
    if open_ms % MINUTE_MS:
        raise _refused(
            (path, line, COLUMNS[0]),
            cells[0],
            "not the start of a minute",
            "Label each bar by the open time of its minute",
        )
    for name, text in zip(COLUMNS[1:], cells[1:], strict=True):
        if not _DECIMAL.fullmatch(text):
            raise _refused(
                (path, line, name), text, "not a plain decimal number", "Write it like 611.78"
            )
    open_, high, low, close, volume = cells[1:]
    return open_ms, open_, high, low, close, volume


def _refused(at: tuple[Path, int, str], value: str, message: str, fix: str) -> UsageError:
    path, line, column = at
    return UsageError(
        f"{path}, line {line}, column {column}: {message}",
        parameter="data",
        value=value,
        fix=fix,
        file=str(path),
        line=line,
        column=column,
    )


def _series_of(symbol: str, rows: list[Row], seed: int) -> _Series:
    listing = listing_of(
        symbol,
        price_decimals=_decimals(text for row in rows for text in row[1:5]),
        size_decimals=_decimals(row[5] for row in rows),
    )
    digest = hashlib.sha256(f"{seed}:{symbol}:file".encode()).digest()
    key = int.from_bytes(digest[:8], "big")
    counts = (_trade_count(row, key) for row in rows)
    return _Series(
        listing=listing,
        rows=rows,
        open_ms=[row[0] for row in rows],
        first_ids=list(accumulate(counts, initial=1)),
        key=key,
        klines=[None] * len(rows),
    )


def _decimals(texts: Iterable[str]) -> int:
    return max(len(text.partition(".")[2]) for text in texts)


def _trade_count(row: Row, key: int) -> int:
    chance = mixed(key ^ row[0])
    flat = row[1] == row[2] == row[3] == row[4]
    return 1 + chance % 3 if flat else 4 + chance % 9


def _trades(series: _Series, index: int) -> list[Trade]:
    """The synthetic trades of one bar, in order."""
    row, first_id = series.rows[index], series.first_ids[index]
    count = series.first_ids[index + 1] - first_id
    chances = [mixed(series.key ^ (first_id + place) * 3 + 1) for place in range(count)]
    open_, high, low, close = row[1:5]
    prices = [(open_, high, low, close)[chance >> 20 & 3] for chance in chances]
    if count >= 4:
        extremes = (high, low) if chances[0] & 1 else (low, high)
        prices[1], prices[-2] = extremes
    prices[0], prices[-1] = (open_ if count > 1 else close), close
    decimals = max(series.listing.size_decimals, 8)
    lots = int(Decimal(row[5]).scaleb(decimals))
    weights = list(accumulate((1 + (chance >> 24) % 1_000 for chance in chances), initial=0))
    bounds = [lots * weight // weights[-1] for weight in weights]
    return [
        Trade(
            id=first_id + place,
            time_ms=row[0] + (place * MINUTE_MS + (chance >> 34) % MINUTE_MS) // count,
            price=prices[place],
            size=fixed_text(bounds[place + 1] - bounds[place], decimals, decimals),
            buyer_is_maker=bool(chance >> 63),
        )
        for place, chance in enumerate(chances)
    ]


def _kline(series: _Series, index: int) -> Kline:
    kline = series.klines[index]
    if kline is None:
        row = series.rows[index]
        made = kline_of_trades(row[0], _trades(series, index))
        kline = Kline(
            *row,
            *(made.quote_volume, made.taker_volume, made.taker_quote_volume),
            *(made.first_id, made.last_id, made.trades),
        )
        series.klines[index] = kline
    return kline
