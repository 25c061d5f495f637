"""Drivers of the families `timeframe` and `watermark` of `identity.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seamline.schemas.times import NS_PER_S, parse_timeframe
from seamline.schemas.topics import dataset_key, parse_dataset_key
from seamline.streams.kernel.watermark import admit, watermark_ns
from vectors.engine import Case, Fields, driver, outcome_of

# Our arguments are in nanoseconds, those of the file in seconds.
_NAMES = {"interval_ns": "interval_s", "last_ns": "last_ts_s", "events_ns": "event_ts_s"}


# Read also where one of them is refused.
_FIELDS = ("last_ts_s", "interval_s", "lag_bars", "watermark_s", "event_ts_s", "on_late")


def ns(seconds: Any) -> Any:
    """Whole seconds in ns; anything else as it is written, to be refused."""
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    return seconds * NS_PER_S if whole else seconds


def seconds(time_ns: int) -> int:
    whole, rest = divmod(time_ns, NS_PER_S)
    assert not rest
    return whole


def _parse_timeframe(given: Fields) -> dict[str, Any]:
    interval_ns = parse_timeframe(given["timeframe"])
    return {"seconds": seconds(interval_ns), "interval_ns": interval_ns, "ok": True}


def _key_round_trip(given: Fields) -> dict[str, Any]:
    preset, symbol = parse_dataset_key(dataset_key(given["preset"], given["symbol"]))
    return {"preset": preset, "symbol": symbol, "ok": True}


@driver("identity", "timeframe")
def timeframe(case: Case) -> Mapping[str, Any]:
    calls = {"parse_timeframe": _parse_timeframe, "key_round_trip": _key_round_trip}
    call = calls[case.call["call"]]
    return outcome_of(lambda: call(case.given))


def _watermark(given: Fields) -> int:
    if "watermark_s" in given:
        return ns(given["watermark_s"])  # type: ignore[no-any-return]
    return watermark_ns(
        ns(given["last_ts_s"]), interval_ns=ns(given["interval_s"]), lag_bars=given["lag_bars"]
    )


def _state_watermark(given: Fields) -> dict[str, Any]:
    return {"watermark_s": seconds(_watermark(given))}


def _offer(given: Fields) -> dict[str, Any]:
    offered = given["event_ts_s"]
    many = isinstance(offered, list)
    mark = _watermark(given)
    found = admit(
        [ns(event) for event in (offered if many else [offered])],
        watermark_ns=mark,
        on_late=given["on_late"],
    )
    return {
        "processed": list(found.processed) if many else found.processed[0],
        "side_output_ts": [seconds(time_ns) for time_ns in found.side_output_ns],
        "watermark_s": seconds(mark),
    }


@driver("identity", "watermark")
def watermark(case: Case) -> Mapping[str, Any]:
    call = {"watermark": _state_watermark, "offer": _offer}[case.call["call"]]
    for name in _FIELDS if case.call["call"] == "offer" else _FIELDS[:3]:
        case.given.get(name)
    found = outcome_of(lambda: call(case.given))
    if found.get("names_parameter") in _NAMES:
        found["names_parameter"] = _NAMES[found["names_parameter"]]
    return found
