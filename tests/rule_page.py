"""The table of what each rule does in canary and in strict, as docs/conformance.md has it.

`python tests/rule_page.py` writes it into the page; `tests/unit/test_rule_table.py` holds it there.
"""

from __future__ import annotations

from pathlib import Path

from seamline.schemas.modes import CANARY, STRICT
from seamline.streams.kernel.rules import FATES, NOT_JUDGED, RULES

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
BEGIN, END = "<!-- rules: begin -->\n", "<!-- rules: end -->\n"


def table() -> str:
    """Every rule that the agent judges, then what the words mean."""
    judged = [rule for rule in RULES.values() if rule.agent[CANARY] != NOT_JUDGED]
    frames = ", ".join(f"`{rule.id}`" for rule in RULES.values() if rule not in judged)
    lines = ["| rule | in canary | in strict |", "|---|---|---|"]
    lines += [f"| `{rule.id}` | {rule.agent[CANARY]} | {rule.agent[STRICT]} |" for rule in judged]
    lines += ["", *(f"- {word}: {said}" for word, said in FATES.items() if word != NOT_JUDGED)]
    return "\n".join([*lines, "", f"Of frames only: {frames}.", ""])


def with_table(text: str) -> str:
    """The page with the table of now between its marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + table() + END + tail


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
