"""Cycles are searched for as before when a piece of work is over, however it ended."""

from __future__ import annotations

import gc

import pytest

from seamline.connectors.cycle_search import CYCLE_SEARCH, cycles_searched_seldom


@pytest.mark.parametrize("fails", [False, True])
def test_only_the_work_itself_is_searched_seldom(fails: bool) -> None:
    before, kept_out = gc.get_threshold(), gc.get_freeze_count()
    seen = []

    @cycles_searched_seldom()
    def work() -> None:
        seen.append((gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > kept_out))
        if fails:
            raise KeyboardInterrupt

    for _ in range(2):
        try:
            work()
        except KeyboardInterrupt:
            assert fails
        assert (gc.get_threshold(), gc.get_freeze_count()) == (before, kept_out)
    assert seen == [(True, CYCLE_SEARCH, True)] * 2


def test_what_a_process_keeps_out_stays_out() -> None:
    gc.freeze()
    try:
        with cycles_searched_seldom():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
