"""The registry of rules: complete, argued for, and one word for one thing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from seamline.schemas.codec import REASONS
from seamline.streams.kernel import intake, trade_rules, validate, writers
from seamline.streams.kernel.rules import (
    BLOCK,
    CONFORMANCE_PRESETS,
    DUPLICATE_CONFLICT,
    DUPLICATE_EQUAL,
    GAP,
    INTAKE,
    PERMISSIVE,
    REPORT,
    RULES,
    SCHEMA_DRIFT,
    STRICT_BLOCKING,
    TOMBSTONED_SCHEMA,
    Rule,
    severity,
)
from vectors.conformance_drivers import JUDGED

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "streams" / "seamline" / "streams" / "kernel"


def agent_ids() -> set[str]:
    """Every id that the agent can write as a reason or a finding."""
    ids = set(validate.RULES.values())
    ids |= {
        value
        for name, value in vars(intake).items()
        if name.isupper()
        and isinstance(value, str)
        and not name.startswith(("HEADER_", "QUARANTINED"))
    }
    ids |= {writers.UNDECODABLE, writers.UNKNOWN_SCHEMA, writers.REGISTRY_UNAVAILABLE}
    ids |= {SCHEMA_DRIFT, TOMBSTONED_SCHEMA}
    ids |= {DUPLICATE_EQUAL, DUPLICATE_CONFLICT, GAP}
    return ids | {trade_rules.NON_FINITE, trade_rules.FUTURE_TIME, *trade_rules.VALUE_RULES}


def test_every_id_that_the_agent_can_write_is_registered() -> None:
    ids = agent_ids()
    assert {"undecodable", "null_value", "off_grid", "gap", "non_positive_size"} <= ids
    assert ids <= RULES.keys()
    # Of the decoder's reasons intake passes these two on; all others read `undecodable`.
    assert {intake.INVALID_TIMESTAMP, intake.TOO_MANY_SYMBOLS} <= set(REASONS)


def test_every_rule_of_the_vectors_is_registered() -> None:
    assert RULES.keys() >= JUDGED


def test_every_rule_that_the_pipeline_reports_is_registered_and_none_else() -> None:
    """The ids in the calls that make a finding, read from the source."""
    written: set[str] = set()
    for name in ("schema_rollup", "temporal_rollup", "market_rollup"):
        tree = ast.parse((KERNEL / f"{name}.py").read_text(encoding="utf-8"))
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        written |= {text for text in texts if isinstance(text, str) and text in RULES}
    judged = {rule.id for rule in RULES.values() if rule.stage != INTAKE}
    assert written - {"trade_ids"} == judged - {"trade_ids"}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_rule_is_argued_for(rule: Rule) -> None:
    assert RULES[rule.id] is rule
    assert re.fullmatch(r"[a-z_]+", rule.id)
    assert rule.severity.keys() == set(CONFORMANCE_PRESETS)
    assert set(rule.severity.values()) <= {BLOCK, REPORT}
    assert rule.kinds and set(rule.kinds) <= {"bars", "trades", "quotes"}
    assert rule.title and not rule.title.endswith(".")
    words = rule.explanation.split()
    assert 45 <= len(words) <= 110, len(words)
    assert "\n" not in rule.explanation and rule.explanation.endswith(".")
    # What happens on the plane is said, and what in a frame.
    if rule.stage == INTAKE:
        assert re.search(r"frame", rule.explanation) and "quarantine" in rule.explanation
        assert re.search(r"both modes|canary", rule.explanation)
    else:
        assert re.search(r"\b(agent|plane)\b", rule.explanation)


def test_permissive_blocks_less_than_strict_blocking() -> None:
    for rule in RULES.values():
        if rule.severity[PERMISSIVE] == BLOCK:
            assert rule.severity[STRICT_BLOCKING] == BLOCK
    blocking = {r.id for r in RULES.values() if r.severity[PERMISSIVE] == BLOCK}
    assert blocking == {"missing_column"}


def test_what_was_put_right_without_loss_does_not_block() -> None:
    reported = {r.id for r in RULES.values() if r.severity[STRICT_BLOCKING] == REPORT}
    assert reported == {
        *("dtype_cast", "unexpected_column", "duplicate_equal", "out_of_order"),
        *("price_jump", "trade_id_gap"),
    }


def test_a_rule_that_is_not_registered_blocks() -> None:
    assert severity("no_such_rule", PERMISSIVE) == BLOCK
