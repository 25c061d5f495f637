"""A position as text: what it keeps, and what is refused with the name of what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seamline.schemas.errors import ContractError, SeamlineError, UsageError
from seamline.sdk import position_file
from seamline.streams.kernel import seam_position
from seamline.streams.kernel.seam_position import Place, Position, Segment

A, B = "BTC/USDT", "ETH/USDT"
POSITION = Position(
    preset_id="ohlcv.binance.spot.1m",
    cluster="abc",
    interval_ns=60,
    symbols=(A, B),
    start_ns=0,
    end_ns=None,
    segments=(
        Segment(Place(120, A), {0: 7, 3: 9}, {A: ((60, 1),)}, {B: ((0, 60, "no_trades"),)}),
        Segment(None, {0: 5, 3: 5}),
    ),
    passed_ns={A: 180, B: 120},
    nulls={B: ((0, 120, 15),)},
)


def forged(**change: Any) -> str:
    """Another fact with the hash that fits to it."""
    tree = json.loads(POSITION.to_json())
    del tree["sha256"]
    tree |= change
    return json.dumps({**tree, "sha256": seam_position._hash(tree)})


def test_there_and_back() -> None:
    text = POSITION.to_json()
    assert Position.from_json(text) == POSITION
    assert "\n" not in text
    assert POSITION.caught_up and not replace(POSITION, segments=POSITION.segments[:1]).caught_up


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"sha256": "x"}', "1" * 5000])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        Position.from_json(text)
    assert raised.value.parameter == "position"
    assert raised.value.fix is not None


def test_a_changed_text_and_another_format() -> None:
    with pytest.raises(ContractError) as changed:
        Position.from_json(POSITION.to_json().replace("180", "181"))
    assert changed.value.parameter == "sha256"
    with pytest.raises(UsageError, match="another format"):
        Position.from_json(forged(position=0))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"symbols": []}, "symbols"),
        ({"symbols": [B, A]}, "symbols"),
        ({"preset": 3}, "preset"),
        ({"start_ns": 2**63}, "start_ns"),
        ({"interval_ns": True}, "interval_ns"),
        ({"end_ns": "later"}, "end_ns"),
        ({"segments": []}, "segments"),
        ({"segments": [{}]}, "segments[0]"),
        ({"passed_ns": {"X": 1}}, "passed_ns"),
        ({"nulls": {A: [[1, 2]]}}, "nulls"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_fact_under_a_right_hash_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(SeamlineError) as raised:
        Position.from_json(forged(**change))
    assert raised.value.parameter is not None
    assert raised.value.parameter.startswith(f"position.{name}")


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "position.json"
    assert position_file.load(path) is None
    position_file.save(POSITION, path)
    position_file.save(replace(POSITION, passed_ns={}), path)
    assert position_file.load(path) == replace(POSITION, passed_ns={})
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match="cannot be written"):
        position_file.save(POSITION, tmp_path / "absent" / "position.json")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        position_file.load(path)
