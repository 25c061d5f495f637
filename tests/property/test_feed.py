"""Laws of the live feed: whatever is lost, repeated or reordered, all leaves once, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.streams.kernel.feed import BarFeed, FeedBar, FeedLimits

MIN = 60_000_000_000
SYMBOLS = ("A/B", "C/D", "E/F")
SPAN = 24


def true_bar(symbol: str, minute: int, source: int) -> FeedBar:
    price = float(hash((symbol, minute)) % 97 + 1)
    # As at the venue: its history tells the number of trades and no ids.
    ids = (-1, -1) if source == 0 else (minute * 10, minute * 10 + 9)
    return FeedBar(minute * MIN, price, price, price, price, 1.0, price, 10, *ids, source, 0)


frames = st.lists(
    st.one_of(
        st.tuples(st.just("bar"), st.sampled_from(SYMBOLS), st.integers(0, SPAN - 1)),
        st.tuples(st.just("fill"), st.sampled_from(SYMBOLS), st.integers(1, 7)),
        st.tuples(st.just("tick"), st.just(""), st.integers(0, SPAN)),
        st.tuples(st.just("connect"), st.just(""), st.integers(0, SPAN)),
    ),
    max_size=80,
)
absent_cells = st.sets(st.tuples(st.sampled_from(SYMBOLS), st.integers(0, SPAN - 1)), max_size=10)


@settings(deadline=None, max_examples=300)
@given(frames, absent_cells, st.integers(1, 4))
def test_every_bar_leaves_once_in_order_below_the_watermark(
    script: list[tuple[str, str, int]], absent: set[tuple[str, int]], held: int
) -> None:
    """Absent cells have no bar anywhere, neither on the socket nor in the venue's history."""
    feed = BarFeed(dict.fromkeys(SYMBOLS, 0), MIN, limits=FeedLimits(held_bars=held, overdue_ns=0))
    sent: dict[str, list[int]] = {s: [] for s in SYMBOLS}
    watermark = feed.watermark_ns

    def note(symbol: str, bars: list[FeedBar]) -> None:
        sent[symbol] += [b.open_time_ns // MIN for b in bars]

    def fill(symbol: str, cells: int) -> None:
        for hole in feed.holes():
            if hole.symbol != symbol:
                continue
            end_ns = min(hole.end_ns, hole.start_ns + cells * MIN)
            span = range(hole.start_ns // MIN, end_ns // MIN)
            rows = [true_bar(symbol, m, 0) for m in span if (symbol, m) not in absent]
            note(symbol, feed.on_answer(symbol, hole.start_ns, end_ns, rows))

    for local, (what, symbol, number) in enumerate(script):
        if what == "bar" and (symbol, number) not in absent:
            note(symbol, feed.on_bar(symbol, true_bar(symbol, number, 1)))
        elif what == "fill":
            fill(symbol, number)
        elif what == "tick":
            feed.on_tick(local, number * MIN)
        elif what == "connect":
            feed.on_connected(number * MIN)
        assert feed.watermark_ns >= watermark
        watermark = feed.watermark_ns
        for name, given_out in sent.items():
            assert sorted(set(given_out)) == list(dict.fromkeys(given_out)), "in order"
            cells = range(watermark // MIN)
            assert {m for m in cells if (name, m) not in absent} <= set(given_out)
        assert feed.held <= held * len(SYMBOLS)

    feed.on_connected(SPAN * MIN)
    for _ in range(10 * SPAN):
        for symbol in SYMBOLS:
            fill(symbol, SPAN)
        feed.on_connected(SPAN * MIN)
    assert feed.holes() == () and feed.held == 0
    assert feed.watermark_ns == SPAN * MIN
    for symbol in SYMBOLS:
        # A bar that history gave first leaves again when the socket tells its ids, never otherwise.
        assert sorted(set(sent[symbol])) == [m for m in range(SPAN) if (symbol, m) not in absent]
        assert all(sent[symbol].count(minute) <= 2 for minute in sent[symbol])
