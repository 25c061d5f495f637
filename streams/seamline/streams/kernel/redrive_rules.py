"""What the present rules would say of records that are to land again.

Decides: nothing of its own: the intake of a worker judges, on a level that is thrown away; trades
are judged as their worker judges them.
Invariant: what this passes, the worker passes under the same mode and the same schemas. Must not
know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from seamline.schemas.modes import Policies
from seamline.schemas.preset import Preset
from seamline.schemas.topics import parse_topic, subject_of, topic_name
from seamline.streams.kernel.intake import CLOCK_SKEW_NS, POISONED, Intake
from seamline.streams.kernel.level import Level
from seamline.streams.kernel.protocol import ROLES, STEP_ROWS_MAX
from seamline.streams.kernel.redrive import Candidate, Judge
from seamline.streams.kernel.rules import QUARANTINE, fate
from seamline.streams.kernel.trade_rules import TradeRules
from seamline.streams.kernel.writers import Resolve


def judge_of(preset: Preset, resolve: Resolve, policies: Policies, clock_ns: int) -> Judge:
    """The judge of a preset's landing records as of `clock_ns`, under each subject's policy."""
    if preset.kind == "trades":
        return _judge_of_trades(preset, resolve, policies, clock_ns)

    def judge(candidates: Sequence[Candidate]) -> list[tuple[Candidate, str, str]]:
        refused: list[tuple[Candidate, str, str]] = []
        for partition in sorted({each.partition for each in candidates}):
            for role in ROLES:
                part = [
                    each
                    for each in candidates
                    if each.partition == partition and parse_topic(each.topic)[1] == role
                ]
                level = Level(span=preset.block_rows, stabilization_bars=0)
                policy = policies(subject_of(topic_name(preset.id, role)))
                intake = Intake(preset, partition, level, resolve)
                start = 0
                while start < len(part):
                    try:
                        taken = intake.take(role, part, start, STEP_ROWS_MAX, clock_ns, policy)
                    except Exception as error:
                        # What no step can take is named by its first record, the rest is tried on.
                        said = f"{type(error).__name__}: {error}"
                        refused.append((part[start], POISONED, said))
                        start += 1
                        continue
                    known = {id(each): each for each in part}
                    refused += [
                        (known[id(kept.record)], kept.reason, kept.detail)
                        for kept in taken.quarantined
                    ]
                    start = taken.next_index
        return refused

    return judge


def _judge_of_trades(preset: Preset, resolve: Resolve, policies: Policies, clock_ns: int) -> Judge:
    def judge(candidates: Sequence[Candidate]) -> list[tuple[Candidate, str, str]]:
        parts: dict[tuple[int, str], list[int]] = {}
        for number, each in enumerate(candidates):
            parts.setdefault((each.partition, each.topic), []).append(number)
        refused: dict[int, tuple[Candidate, str, str]] = {}
        for (partition, topic), numbers in parts.items():
            policy = policies(subject_of(topic))
            part = [candidates[number] for number in numbers]
            rules = TradeRules(preset, partition, resolve)
            judged = rules.judge(part, rules.writers(part, policy), clock_ns + CLOCK_SKEW_NS)
            for at, broken in judged.broken.items():
                if fate(broken.rules[0], policy.mode) == QUARANTINE:
                    refused[numbers[at]] = (part[at], broken.rules[0], broken.detail)
        return [refused[number] for number in sorted(refused)]

    return judge
