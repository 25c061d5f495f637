"""`seamline explain`: one rule, all rules, an unknown rule."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from seamline.sdk.cli.main import app
from seamline.streams.kernel.rules import FATES, RULES


def said(*words: str, status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["explain", *words])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_as_json_is_the_whole_of_its_registry_entry(rule: str) -> None:
    answer = json.loads(said(rule, "-o", "json")[0])
    found = RULES[rule]
    assert answer == {
        "rule": found.id,
        "title": found.title,
        "kinds": list(found.kinds),
        "stage": found.stage,
        **{mode: f"{word}: {FATES[word]}" for mode, word in found.agent.items()},
        "severity": dict(found.severity),
        "explanation": found.explanation,
    }


def test_a_rule_as_a_table_holds_the_whole_paragraph() -> None:
    shown = said("duplicate_conflict")[0]
    cells = " ".join(
        line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 3
    )
    assert RULES["duplicate_conflict"].explanation in cells


def test_without_a_rule_all_are_listed_with_their_modes_and_severities() -> None:
    rows = json.loads(said("-o", "json")[0])
    assert [row["rule"] for row in rows] == list(RULES)
    for row in rows:
        assert {p: row[p] for p in ("strict-blocking", "permissive")} == RULES[row["rule"]].severity
        assert {mode: row[mode] for mode in ("canary", "strict")} == RULES[row["rule"]].agent
    first = said("-o", "csv")[0].splitlines()[0]
    assert first == "rule,canary,strict,strict-blocking,permissive,title"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("wide-sprad", "wide_spread"), ("DUPLICATE", "duplicate_equal"), ("offgrid", "off_grid")],
)
def test_an_unknown_rule_is_wrong_usage_and_names_what_is_near(written: str, meant: str) -> None:
    out, err = said(written, status=2)
    assert out == ""
    assert written in err and meant in err and "seamline explain" in err


def test_a_name_near_to_nothing_leads_to_the_list() -> None:
    _, err = said("qqqq", status=2)
    assert "Did you mean" not in err and "lists all" in err
