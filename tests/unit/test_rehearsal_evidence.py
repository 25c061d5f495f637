"""The evidence of a rehearsal is written and read back whole, and what is none is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seamline.schemas.errors import ContractError
from seamline.streams.kernel.rehearsal import OTHERS, Evidence, Traffic, top

EVIDENCE = Evidence(
    subject="seamline.ohlcv.x.1m.live-value",
    topic="seamline.ohlcv.x.1m.live",
    bundle_sha256="ab" * 32,
    since_ns=1_000,
    window_ns=500,
    ended_ns=1_500,
    records=10,
    bars=7,
    blocked_records=3,
    blocked_in_canary=1,
    blocked_bars=2,
    missing_bars=1,
    stale_minutes=1.0,
    by_rule={"ohlc_inconsistent": 2, "undecodable": 1},
    by_schema={"bar v1": 3},
    by_producer={"live:sim": 2, "unknown": 1},
    by_symbol={"BTC/USDT": 3},
    samples={"undecodable": ((0, 7),)},
    partitions={0: (0, 5), 1: (3, 9)},
    traffic=Traffic(1_000, 1_400, 10, 100),
    mode_version=0,
    notes=("read from offset 3",),
)


def test_it_comes_back_equal() -> None:
    assert Evidence.from_json(json.loads(json.dumps(EVIDENCE.to_json()))) == EVIDENCE


def test_clean_means_nothing_blocked_and_certain() -> None:
    none = replace(EVIDENCE, blocked_records=0, blocked_in_canary=0)
    assert not EVIDENCE.clean
    assert none.clean
    assert not replace(none, complete=False).clean


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 2),
        ("subject", ""),
        ("records", -1),
        ("records", True),
        ("records", 1.0),
        ("stale_minutes", float("nan")),
        ("stale_minutes", float("inf")),
        ("by_rule", {"undecodable": 1}),
        ("by_symbol", [["BTC/USDT", 3]]),
        ("blocked_in_canary", 4),
        ("missing_bars", 3),
        ("window_ns", 499),
        ("samples", {"undecodable": [[0]]}),
        ("samples", {"undecodable": [[0, n] for n in range(4)]}),
        ("partitions", {"0": [5, 0]}),
        ("partitions", {"-1": [0, 5]}),
        ("traffic", {"first_ns": 0}),
        ("complete", 1),
        ("notes", "read"),
        ("unknown", 1),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ContractError, match=name):
        Evidence.from_json(EVIDENCE.to_json() | {name: value})


@pytest.mark.parametrize("value", [None, [], "evidence", {"format": 1}])
def test_no_evidence_at_all(value: object) -> None:
    with pytest.raises(ContractError):
        Evidence.from_json(value)


def test_a_field_may_not_be_left_out() -> None:
    plain = EVIDENCE.to_json()
    del plain["traffic"]
    with pytest.raises(ContractError, match="traffic"):
        Evidence.from_json(plain)


def test_the_most_frequent_names_are_kept_and_the_rest_summed() -> None:
    counts = {f"S{n:02}": n + 1 for n in range(25)} | {OTHERS: 9}
    kept = top(counts)
    assert len(kept) == 21 and kept["S24"] == 25 and kept[OTHERS] == 1 + 2 + 3 + 4 + 5 + 9
    assert sum(kept.values()) == sum(counts.values())
    assert top({"a": 1}) == {"a": 1}
