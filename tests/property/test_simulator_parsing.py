"""What the venue simulator reads from outside: no text crashes it, none is taken for another."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from seamline.connectors.venues.binance_parse import Reply, parse_frame
from seamline.connectors.venues.market import listing_of, listings_by_venue_symbol
from seamline.connectors.venues.simulated_market import SimulatedMarket
from seamline.connectors.venues.venue_control import METHODS, STREAMS_MAX, control
from seamline.connectors.venues.venue_events import EventSchedule, dumped
from seamline.connectors.venues.venue_faults import KINDS, Fault, parse_faults
from seamline.schemas.errors import UsageError

START_NS = 1_767_225_600_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(METHODS) | JSON,
        "params": st.lists(st.sampled_from(["a@trade", "b@trade", "combined"]) | JSON) | JSON,
        "id": st.integers() | JSON,
    },
)
KEYS = sorted({key for kind in KINDS.values() for key in kind.keys})
VALUES = st.sampled_from(
    [
        *("0.5", "1", "0", "-1", "nan", "1e-9", "40", "+5m", "+9m", "+5m|+7m", "|", "2s", "-90s"),
        *("0s", "1ms", "closed", "open", "rest", "ws", "429", "418", "BTC/USDT", "listed", "10m"),
        *("2026-01-01T00:05:00Z", "2026-01-01", "now", "-3d", "99999999w", "9" * 40, "=", ""),
    ]
)
PAIRS = st.tuples(st.sampled_from(KEYS), VALUES | st.text(max_size=8)).map("=".join)
GRAMMAR = st.tuples(
    st.sampled_from(sorted(KINDS)) | st.text(max_size=8), st.lists(PAIRS, max_size=5).map(",".join)
).map(":".join)


@settings(deadline=None)
@given(text=st.text() | JSON.map(json.dumps) | MESSAGES.map(json.dumps), combined=st.booleans())
@example(text="[" * 60_000, combined=True)
@example(text='{"id":' * 10_000, combined=True)
@example(text='{"method":"SUBSCRIBE","params":["\\ud800"],"id":"\\udfff"}', combined=False)
@example(text='{"id":' + "9" * 5_000 + "}", combined=False)
def test_every_control_message_gets_one_reply(text: str, combined: bool) -> None:
    streams = ["a@trade"]
    answer = control(text, streams, combined)
    assert isinstance(parse_frame(dumped(answer.reply).encode(), 0), Reply)
    refused = "code" in answer.reply
    changes = bool(answer.add or answer.remove or answer.combined is not None)
    assert not (refused and changes)
    assert len(answer.add) <= STREAMS_MAX


@settings(deadline=None)
@given(text=st.text() | GRAMMAR | st.lists(GRAMMAR, max_size=4).map(";".join))
@example(text="lose-frames:p=" + "9" * 100_000)
@example(text="x" * 100_000)
@example(text="delay-frames:p=1,by=" + "9" * 5_000 + "s")
def test_a_text_is_faults_or_an_error_that_says_how_to_put_it_right(text: str) -> None:
    try:
        faults = parse_faults(text, start_ns=START_NS)
    except UsageError as error:
        assert error.parameter == "faults"
        assert error.fix
    else:
        assert all(isinstance(fault, Fault) for fault in faults)
        assert parse_faults(";".join(f.text for f in faults), start_ns=START_NS) == faults


@settings(deadline=None)
@given(name=st.text(max_size=20) | st.from_regex(r"[a-zıſßK]{7}@(kline_1m|trade)", fullmatch=True))
@example(name="lınkusdt@trade")
def test_only_the_names_of_the_venue_are_streams(name: str) -> None:
    listings = listings_by_venue_symbol([listing_of("LINK/USDT")])
    schedule = EventSchedule(SimulatedMarket([one.symbol for one in listings.values()]), 0, 1)
    known = {f"linkusdt@{kind}" for kind in ("kline_1m", "trade", "aggTrade")}
    assert schedule.knows(name) == (name in known)
