"""Drivers of the families about live feeds: `live_dedupe`, `reconnect`, `log_consumer`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from seamline.schemas.errors import TransportError
from seamline.streams.kernel.feed import BarDedupe, FeedBar, Ladder, LogConsumer, TradeDedupe
from vectors.engine import Accepts, Case, driver

S = 1_000_000_000
SYMBOL = "BTC/USDT"


def bar_at(open_time_ns: int) -> FeedBar:
    """Bars of one time have equal content, by the conventions of the file."""
    price = float(open_time_ns // S)
    volume = 1.0
    return FeedBar(
        open_time_ns, price, price, price, price, volume, float("nan"), -1, -1, -1, 1, open_time_ns
    )


@driver("identity", "live_dedupe")
def live_dedupe(case: Case) -> Mapping[str, Any]:
    call = case.call["call"]
    if call == "dedupe_trades":
        times = case.given["trades_ts_ms"]
        ids = case.given["trade_ids"]
        assert len(times) == len(ids)
        return {"rows": len(TradeDedupe().new(SYMBOL, ids))}
    assert call == "dedupe_bars", call
    dedupe = BarDedupe()
    frames = [
        [b.open_time_ns // S for b in dedupe.new(SYMBOL, [bar_at(t * S) for t in batch])]
        for batch in case.given["batches_ts_s"]
    ]
    given = [frame for frame in frames if frame]
    return {
        "frames_ts_s": Accepts(lambda wanted: [f for f in wanted if f] == given, frames),
        "emitted_ts_s": [t for frame in frames for t in frame],
        "rows": sum(map(len, frames)),
    }


@driver("identity", "reconnect")
def reconnect(case: Case) -> Mapping[str, Any]:
    assert case.call["call"] == "reconnect"
    ladder = Ladder(tuple(case.given["ladder_ms"]))
    script: Iterable[str] = case.given.get("script", ())
    failures: int = case.given.get("failures", 0)
    sleeps = []
    for step in [*script, *["fail"] * failures]:
        if step == "connected":
            ladder = ladder.connected()
        else:
            assert step == "fail", step
            ladder, pause_ms = ladder.failed()
            sleeps.append(pause_ms)
    return {"sleeps_ms": sleeps}


@driver("identity", "log_consumer")
def log_consumer(case: Case) -> Mapping[str, Any]:
    assert case.call["call"] == "consume_all"
    records: list[str] = case.given["records"]
    fails = Counter(case.given.get("fail_times", {}))
    processed: list[Hashable] = []
    attempts: Counter[Hashable] = Counter()

    def process(record: Hashable) -> None:
        attempts[record] += 1
        if fails[record] >= attempts[record]:
            raise TransportError("the processor fails here")
        processed.append(record)

    LogConsumer(process, attempts_max=case.given.get("max_attempts", 5)).consume_all(records)
    done = Counter(processed)
    return {
        "processed": processed,
        "lost": len(set(records) - done.keys()),
        "twice": sum(times - 1 for times in done.values()),
        "attempts": dict(attempts),
    }
