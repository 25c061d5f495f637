"""A market from a file: its texts unchanged, its holes kept, what it lacks synthesised
consistently."""

from __future__ import annotations

import csv
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from seamline.connectors.venues.file_market import COLUMNS, FileMarket, first_open_ns, read_rows
from seamline.connectors.venues.market import MINUTE_MS, Kline
from seamline.schemas.errors import UsageError

COINBASE = Path(__file__).parent.parent / "data/crypto_1m/coinbase_btcusd_20161007_3d.csv"
HEADER = ",".join(COLUMNS)
GOOD = "1475798400000,611.78,611.91,611.78,611.9,1.13872"
FOREVER_MS = 2**50


@pytest.fixture(scope="module")
def coinbase() -> FileMarket:
    return FileMarket({"BTC/USD": COINBASE}, seed=7)


def whole(market: FileMarket) -> list[Kline]:
    return market.page("BTCUSD", 0, FOREVER_MS, 10_000, newest=False)


def test_every_row_of_the_file_with_its_own_texts(coinbase: FileMarket) -> None:
    with COINBASE.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    got = [[str(k.open_ms), k.open, k.high, k.low, k.close, k.volume] for k in whole(coinbase)]
    assert len(got) == 4_216
    assert got == rows


def test_minutes_without_a_row_have_no_kline(coinbase: FileMarket) -> None:
    klines = whole(coinbase)
    missing = [
        open_ms
        for a, b in pairwise(klines)
        for open_ms in range(a.open_ms + MINUTE_MS, b.open_ms, MINUTE_MS)
    ]
    assert len(missing) == 104
    for open_ms in missing:
        assert coinbase.as_of("BTCUSD", open_ms, open_ms + 30_000) is None
        assert coinbase.page("BTCUSD", open_ms, open_ms + MINUTE_MS, 10, newest=False) == []
        assert coinbase.trades("BTCUSD", open_ms, open_ms + MINUTE_MS) == []


def test_synthetic_ids_follow_each_other_and_every_bar_has_trades(coinbase: FileMarket) -> None:
    klines = whole(coinbase)
    assert klines[0].first_id == 1
    assert all(a.last_id + 1 == b.first_id for a, b in pairwise(klines))
    assert all(k.trades >= 1 and k.last_id - k.first_id + 1 == k.trades for k in klines)


def test_synthetic_trades_make_the_bar_that_the_file_has(coinbase: FileMarket) -> None:
    for kline in whole(coinbase)[:600]:
        trades = coinbase.trades("BTCUSD", kline.open_ms, kline.open_ms + MINUTE_MS)
        prices = [Decimal(trade.price) for trade in trades]
        assert [trade.id for trade in trades] == list(range(kline.first_id, kline.last_id + 1))
        assert (trades[0].price, trades[-1].price) == (kline.open, kline.close)
        assert (max(prices), min(prices)) == (Decimal(kline.high), Decimal(kline.low))
        assert sum(Decimal(trade.size) for trade in trades) == Decimal(kline.volume)
        assert [t.time_ms for t in trades] == sorted(t.time_ms for t in trades)
        quote = Decimal(kline.quote_volume)
        slack = Decimal("0.00000001")
        assert quote >= Decimal(kline.low) * Decimal(kline.volume) - slack
        assert quote <= Decimal(kline.high) * Decimal(kline.volume) + slack


def test_the_same_file_and_seed_give_the_same_market(coinbase: FileMarket) -> None:
    assert whole(FileMarket({"BTC/USD": COINBASE}, seed=7)) == whole(coinbase)


def test_an_open_kline_grows_into_the_row(coinbase: FileMarket) -> None:
    kline = whole(coinbase)[5]
    grown = [coinbase.as_of("BTCUSD", kline.open_ms, kline.open_ms + s * 1_000) for s in range(61)]
    assert grown[60] == kline
    counts = [part.trades for part in grown if part is not None]
    assert counts == sorted(counts)
    assert len(counts) == 61
    assert counts[0] < kline.trades


def test_parquet_gives_what_the_csv_gives(tmp_path: Path, coinbase: FileMarket) -> None:
    rows = list(read_rows(COINBASE))
    texts = pd.DataFrame(rows, columns=list(COLUMNS))
    texts.to_parquet(tmp_path / "text.parquet", index=False)
    floats = texts.astype(dict.fromkeys(COLUMNS[1:], "float64"))
    floats.to_parquet(tmp_path / "float.parquet", index=False)
    assert list(read_rows(tmp_path / "text.parquet")) == rows
    for read, row in zip(read_rows(tmp_path / "float.parquet"), rows, strict=True):
        assert [float(text) for text in read] == [float(text) for text in row]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, "open_time_ms"),
        ("time,open,high,low,close,volume\n" + GOOD, 1, "open_time_ms"),
        ("open_time_ms,open,high,close,low,volume\n" + GOOD, 1, "low"),
        (HEADER + ",extra\n" + GOOD + ",1", 1, "extra"),
        (HEADER, 2, "open_time_ms"),
        (f"{HEADER}\n{GOOD}\n1475798460000,611.8,611.9", 3, "low"),
        (f"{HEADER}\n{GOOD},9", 2, "volume"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", 3, "open_time_ms"),
        (f"{HEADER}\n2016-10-07T00:00:00Z,1,1,1,1,1", 2, "open_time_ms"),
        (f"{HEADER}\n1475798400,1,1,1,1,1", 2, "open_time_ms"),
        (f"{HEADER}\n1475798414000,1,1,1,1,1", 2, "open_time_ms"),
        (f"{HEADER}\n1475798400000,1,1,1,1,nan", 2, "volume"),
        (f"{HEADER}\n1475798400000,1,inf,1,1,1", 2, "high"),
        (f"{HEADER}\n1475798400000,1,1,,1,1", 2, "low"),
        (f'{HEADER}\n1475798400000,"1,5",1,1,1,1', 2, "open"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_place(
    tmp_path: Path, text: str, line: int, column: str
) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        FileMarket({"BTC/USD": path})
    error = caught.value
    assert (error.parameter, error.fields["file"]) == ("data", str(path))
    assert (error.fields["line"], error.fields["column"]) == (line, column)
    assert f"{path}, line {line}, column {column}" in str(error)
    assert error.fix


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bars.csv", b"\xff\xfe\x00"),
        ("bars.parquet", b"not parquet"),
        ("bars.txt", b"open_time_ms"),
        ("missing.csv", None),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        FileMarket({"BTC/USD": path})
    assert caught.value.parameter == "data"
    assert str(path) in str(caught.value)


def test_the_first_open_time_is_read_without_the_rest(tmp_path: Path) -> None:
    assert first_open_ns(COINBASE) == 1_475_798_400_000_000_000
    path = tmp_path / "bars.csv"
    path.write_text(f"{HEADER}\n{GOOD}\nbroken")
    assert first_open_ns(path) == 1_475_798_400_000_000_000
