"""Two simulated hours of venues that misbehave; `make soak` runs a whole day of each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.case import Ground
from faults.venue_cases import SENTENCES, SHORT, WHOLE_DAY, faults_of, weather
from faults.venue_days import run_days
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.connectors.world import World

ALONE = ("lose-frames", "outage", "correct-klines")


@pytest.mark.timeout(900)
def test_every_minute_is_the_settled_bar_or_a_gap_with_its_cause(
    world: World, tmp_path: Path
) -> None:
    kinds = ("mix", *ALONE)
    found = run_days(Ground(world, tmp_path), 0, [weather(kind, 0, SHORT) for kind in kinds], SHORT)
    for kind, outcome in found.items():
        assert outcome.ok, f"{kind}: {outcome.story()}"
        assert outcome.bars > 400, kind
    assert set(found["mix"].struck) == set(SENTENCES)
    for kind in ALONE:
        assert set(found[kind].struck) == {kind}


def test_the_faults_of_a_day_are_their_seed_and_can_be_caused() -> None:
    for kind in SENTENCES:
        for shape in (SHORT, WHOLE_DAY):
            texts = [faults_of(kind, seed, shape) for seed in range(20)]
            assert texts == [faults_of(kind, seed, shape) for seed in range(20)]
            for text in texts:
                parsed = parse_faults(text, start_ns=0)
                assert kind in {fault.kind for fault in parsed}
                last_ms = shape.minutes * 60_000 * 3 // 4
                assert all(at <= last_ms for fault in parsed for at in fault.at)
