"""Broken places of the conformance of a batch, and of the causes of gaps."""

from __future__ import annotations

from typing import Final

from mutants.mutant import Mutant

TEMPORAL: Final = "unit/test_temporal.py"
LAWS: Final = "property/test_temporal.py"
CAUSES: Final = "property/test_gap_causes.py"

MUTANTS: Final = (
    Mutant(
        "authority-of-a-batch-turned-round",
        "streams.kernel.temporal_settle:settle",
        "takes = not same and rank <= entry[E_RANK]",
        "takes = not same and rank >= entry[E_RANK]",
        "A frame keeps the weaker of two statements.",
        (f"{TEMPORAL}::test_authority_decides_and_is_no_finding",),
    ),
    Mutant(
        "repeat-of-a-batch-is-disorder",
        "streams.kernel.temporal_kernels:_file",
        "if t < state[s, A_NEWEST]:",
        "if t <= state[s, A_NEWEST]:",
        "Each repeated bar is reported twice, once as disorder.",
        (TEMPORAL, LAWS),
    ),
    Mutant(
        "off-grid-row-kept",
        "streams.kernel.temporal_kernels:_file",
        "verdict[i] |= OFF_GRID | DROPPED",
        "verdict[i] |= OFF_GRID",
        "A report says that a row is there which the frame does not have.",
        (TEMPORAL, LAWS),
    ),
    Mutant(
        "fill-of-a-batch-is-a-revision",
        "streams.kernel.temporal_settle:_optional",
        "done |= 2",
        "done |= 1",
        "A null that is filled counts as a change.",
        (f"{TEMPORAL}::test_a_null_is_filled_without_a_revision",),
    ),
    Mutant(
        "gap-outside-the-sessions",
        "streams.kernel.temporal_kernels:_add_gaps",
        "gaps[n, 1] = max(low, expected[left, 0])",
        "gaps[n, 1] = low",
        "The night of an exchange counts as missing.",
        (f"{TEMPORAL}::test_nothing_is_expected_between_sessions", LAWS),
    ),
    Mutant(
        "step-of-one-interval-misaligned",
        "streams.kernel.temporal_kernels:_misaligned",
        "after - interval <= before",
        "after + interval <= before",
        "Steps shorter than the interval are reported.",
        (f"{TEMPORAL}::test_steps_that_do_not_fit_are_counted",),
    ),
    Mutant(
        "low-above-the-open-passes",
        "streams.kernel.temporal_kernels:_judge_values",
        "& (l <= o)",
        "& (l <= h)",
        "A bar whose range does not hold its open is sound in a frame and not in the log.",
        (TEMPORAL, LAWS),
    ),
    Mutant(
        "equal-not-seen-in-a-batch",
        "streams.kernel.temporal_settle:_same",
        "if a != b and not (np.isnan(a) and np.isnan(b)):",
        "if a != b:",
        "Two equal bars without a value conflict for ever.",
        (f"{TEMPORAL}::test_zero_has_one_sign_and_nan_is_nan", LAWS),
    ),
    Mutant(
        "loss-explained-by-the-venue",
        "streams.kernel.gap_causes:",
        '*(OUR_LOSS, "jump"),',
        '*(NO_TRADES, "jump"),',
        "Trades that we lost are called a quiet minute.",
        (CAUSES,),
    ),
    Mutant(
        "gap-awaited-for-ever",
        "streams.kernel.gap_causes:facts_of",
        "young = through is not None and gap[1] > through",
        "young = through is not None and gap[1] >= through",
        "A gap that has settled is still called late.",
        (f"{CAUSES}::test_a_gap_is_late_until_its_last_cell_has_settled",),
    ),
)
