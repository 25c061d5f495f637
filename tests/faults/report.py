"""The table of runs, for a terminal and for the page.

Decides: what is added up, and where in the page the generated part stands. Invariants: a run that
did not end counts as failed and shows as such; nothing outside the two marker lines is touched.
Must not know: how a run is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from faults.case import Case, Outcome

BEGIN = "<!-- reliability: begin, written by `make reliability` -->"
END = "<!-- reliability: end -->"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a case: its outcome, or what kept it from ending."""

    case: Case
    seed: int
    outcome: Outcome | None
    failure: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is not None and self.outcome.ok

    def again(self) -> str:
        return f"python -m faults --case {self.case.name} --seed {self.seed}"

    def story(self) -> str:
        return self.failure if self.outcome is None else self.outcome.story()


def fault_table(runs: Sequence[Run]) -> str:
    """One line for each kind of fault: in how many runs, how often, and what those runs lost."""
    lines = [
        "| fault | times | runs | bars compared | lost | duplicated | changed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    texts = dict.fromkeys(
        text for run in runs for kind, text in run.case.faults.items() if _struck(run, kind)
    )
    for text in texts:
        # By what it says, not by its name: two cases may use one name for different things.
        struck = [(run, n) for run in runs if (n := _struck_as(run, text))]
        times, those = sum(n for _, n in struck), [run for run, _ in struck]
        lines.append(f"| {text} | {times} | {len(those)} | {_sums(those)} |")
    return "\n".join(lines)


def case_table(runs: Sequence[Run]) -> str:
    """One line for each case, with the seeds that give it again."""
    lines = [
        "| case | what | runs | bars compared | lost | duplicated | changed | other | seconds "
        "| seeds | failed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for case in dict.fromkeys(run.case.name for run in runs):
        those = [run for run in runs if run.case.name == case]
        outcomes = [run.outcome for run in those if run.outcome is not None]
        other = sum(len(outcome.wrong) + outcome.invented for outcome in outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes)
        failed = ", ".join(str(run.seed) for run in those if not run.ok) or "none"
        lines.append(
            f"| `{case}` | {those[0].case.sentence} | {len(those)} | {_sums(those)} | {other} "
            f"| {seconds:.0f} | {_seeds(run.seed for run in those)} | {failed} |"
        )
    return "\n".join(lines)


def generated(runs: Sequence[Run], day: str, versions: Mapping[str, str]) -> str:
    """The part of the page that this command owns, markers included."""
    on = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join(
        [
            BEGIN,
            f"Produced on {day} by `make reliability`; {on}.",
            fault_table(runs),
            case_table(runs),
            END,
        ]
    )


def put_into(page: str, part: str) -> str:
    """`page` with its generated part replaced. Raises ValueError where it has no markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return head + part + tail


def _struck(run: Run, kind: str) -> int:
    return 0 if run.outcome is None else run.outcome.struck.get(kind, 0)


def _struck_as(run: Run, text: str) -> int:
    return sum(_struck(run, kind) for kind, said in run.case.faults.items() if said == text)


def _sums(runs: Sequence[Run]) -> str:
    outcomes = [run.outcome for run in runs if run.outcome is not None]
    counts = [
        sum(getattr(outcome, name) for outcome in outcomes)
        for name in ("bars", "lost", "duplicated", "changed")
    ]
    return " | ".join(f"{count:,}" for count in counts)


def _seeds(seeds: Iterable[int]) -> str:
    """0-19 where they are neighbours, else each."""
    listed = sorted(seeds)
    if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]}-{listed[-1]}"
    return ", ".join(map(str, listed))
