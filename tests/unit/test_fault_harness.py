"""The fault harness itself: plans by seed, comparisons that find what was planted, the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from faults.case import Case, Ground, Outcome
from faults.causes import Cause, play
from faults.comparison import Contents, Row, compare
from faults.report import BEGIN, END, Run, case_table, fault_table, generated, put_into
from faults.results import append, load
from faults.series import Output
from faults.table import CASES
from faults.timeline import Fault, Kind, Timeline, plan
from seamline.schemas.columns import CONFIRMED

KINDS = (Kind("kill", ("a", "b"), 0.1, 1.0), Kind("stop", ("a", "b", "c"), 5.0, 6.0))
MINUTE_NS = 60_000_000_000


def test_a_plan_is_its_seed() -> None:
    plans = [plan(seed, KINDS, 20.0, extra=3) for seed in range(50)]
    assert plans == [plan(seed, KINDS, 20.0, extra=3) for seed in range(50)]
    assert len(set(map(str, plans))) == 50
    for each in plans:
        assert {fault.kind for fault in each.faults} == {"kill", "stop"}
        assert len(each.faults) == 5
        assert each.overlaps
        assert list(each.faults) == sorted(each.faults)
        assert all(2.0 <= fault.at_s < 20.0 for fault in each.faults)


def test_what_could_not_be_done_is_neither_counted_nor_undone() -> None:
    deeds: list[str] = []

    def do(target: str) -> bool:
        deeds.append(f"do {target}")
        return target == "up"

    cause = Cause("hit", "", do, lambda target: deeds.append(f"undo {target}"), 0, 0)
    timeline = Timeline(0, (Fault(0.0, "hit", "u", 0.0), Fault(0.01, "hit", "d", 0.0)))
    struck = play(timeline, {"hit": cause}, {"u": "up", "d": "down"})
    assert deeds == ["do up", "undo up", "do down"]
    assert struck == Counter(hit=1)


def contents(bars: int = 4) -> Contents:
    """Two sealed bars and two in the log, one of them revised."""
    rows = [Row((100.0 + n, None), "ws_closed", 0) for n in range(bars)]
    found = Contents(seals={"A": (2 * MINUTE_NS, b"root")}, digests={("A", 0): b"digest"})
    for n, row in enumerate(rows):
        found.log["A", n * MINUTE_NS] = [row]
        if n < 2:
            found.stored["A", n * MINUTE_NS] = row
    found.log["A", 3 * MINUTE_NS].append(Row((7.0, None), "rest_settled", 1))
    return found


def test_equal_contents_do_not_differ() -> None:
    difference = compare(contents(), contents(), revisions=True)
    assert difference.sentences() == ()
    assert difference.bars == 4


def test_each_difference_is_found_for_what_it_is() -> None:
    lost, invented, changed, twice = contents(), contents(), contents(), contents()
    del lost.log["A", 2 * MINUTE_NS]
    invented.log["A", 9 * MINUTE_NS] = [Row((1.0, None), "ws_closed", 0)]
    changed.stored["A", 0] = Row((101.5, None), "ws_closed", 0)
    twice.log["A", 2 * MINUTE_NS] *= 2
    expected = contents()
    assert compare(expected, lost).lost == (("A", 2 * MINUTE_NS),)
    assert compare(expected, invented).invented == (("A", 9 * MINUTE_NS),)
    assert compare(expected, changed).changed == (("A", 0),)
    assert compare(expected, twice).duplicated == (("A", 2 * MINUTE_NS),)


def test_a_confirmation_is_no_second_row() -> None:
    confirmed = contents()
    rows = confirmed.log["A", 2 * MINUTE_NS]
    rows.append(replace(rows[0], source="rest_settled", flags=CONFIRMED))
    rows.append(rows[-1])
    difference = compare(contents(), confirmed, revisions=True)
    assert difference.duplicated == ()
    assert difference.wrong == ("1 of another authority: A 1970-01-01T00:02:00Z",)


@pytest.mark.parametrize("name", ["digests", "seals", "gaps", "revisions"])
def test_what_readers_verify_is_compared(name: str) -> None:
    other = contents()
    if name == "digests":
        other.digests["A", 0] = b"other"
    elif name == "seals":
        other.seals["A"] = (2 * MINUTE_NS, b"other")
    elif name == "gaps":
        other.gaps["A", 0] = (MINUTE_NS, "our_loss")
    else:
        other.log["A", 3 * MINUTE_NS].insert(1, Row((6.0, None), "ws_closed", 1))
    (sentence,) = compare(contents(), other, revisions=True).wrong
    assert sentence.startswith(f"1 {name} differ")


def test_a_series_accounts_for_every_record() -> None:
    out = Output(
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {"a": {1}, "b": {2, 5}, "c": {3}, "x": {9}},
        Counter({"a": 1, "b": 2, "c": 2, "x": 1}),
    )
    assert out.lost == {"d"}
    assert out.twice == ["b", "c"]
    assert out.changed == ["b"]
    assert out.invented == {"x"}


def run(ground: Ground, seed: int) -> Outcome:
    raise AssertionError


CASE = Case("some", "a case", run, faults={"kill": "SIGKILL", "stop": "SIGSTOP"})


def test_the_tables_add_up_and_a_run_that_did_not_end_shows() -> None:
    good = Outcome(0, "seed 0: …", {"kill": 2}, bars=1_000, seconds=1.5)
    bad = Outcome(1, "seed 1: …", {"kill": 1, "stop": 1}, bars=500, lost=3, invented=1)
    runs = [Run(CASE, 0, good), Run(CASE, 1, bad), Run(CASE, 2, None, "it broke")]
    assert [each.ok for each in runs] == [True, False, False]
    assert runs[2].again() == "python -m faults --case some --seed 2"
    assert fault_table(runs).splitlines()[2:] == [
        "| SIGKILL | 3 | 2 | 1,500 | 3 | 0 | 0 |",
        "| SIGSTOP | 1 | 1 | 500 | 3 | 0 | 0 |",
    ]
    assert case_table(runs).splitlines()[2:] == [
        "| `some` | a case | 3 | 1,500 | 3 | 0 | 0 | 1 | 2 | 0-2 | 1, 2 |"
    ]


def test_nothing_compared_is_no_success() -> None:
    assert not Outcome(0, "", {}, bars=0).ok


def test_only_the_generated_part_of_the_page_changes() -> None:
    part = generated([Run(CASE, 0, Outcome(0, "", {}, bars=1))], "2026-01-01", {"Python": "3"})
    page = f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n"
    written = put_into(page, part)
    assert written.startswith("# Before\n\n") and written.endswith("\n\nAfter\n")
    assert "old" not in written and "2026-01-01" in written
    assert put_into(written, part) == written
    with pytest.raises(ValueError, match="lacks the lines"):
        put_into("# Nothing here\n", part)


def test_the_page_of_the_documentation_can_be_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert put_into(page, f"{BEGIN}\n{END}").count(BEGIN) == 1


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert all(case.seeds >= 1 and case.sentence for case in CASES)


def test_results_are_kept_the_newest_stands_and_unknown_cases_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    assert load(file, [CASE]) == []
    bad = Run(CASE, 0, Outcome(0, "seed 0", {"kill": 1}, bars=5, lost=1, wrong=("lost: A",)))
    good = Run(CASE, 0, Outcome(0, "seed 0", Counter(kill=2), bars=5))
    gone = Run(replace(CASE, name="gone"), 0, Outcome(0, "", {}, bars=1))
    broken = Run(CASE, 1, None, "it broke")
    for run in (bad, broken, gone):
        append(file, run)
    assert load(file, [CASE]) == [bad, broken]
    append(file, good)
    assert load(file, [CASE]) == [good, broken]
