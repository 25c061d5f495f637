"""Broken places of the judgement of trades: their bytes, their rules, their rehearsal."""

from __future__ import annotations

from typing import Final

from mutants.mutant import Mutant

COLUMNS: Final = "property/test_trades_in_columns.py"
REHEARSED: Final = "unit/test_rehearsal_trades.py"

MUTANTS: Final = (
    Mutant(
        "longer-number-in-a-trade",
        "schemas.trade_kernels:_read_number",
        "if after > p + 1 and b[after - 1] == 0:",
        "if after > p + 10 and b[after - 1] == 0:",
        "A trade that its worker refuses one by one passes in a batch.",
        (f"{COLUMNS}::test_a_batch_reads_as_each_of_its_records",),
    ),
    Mutant(
        "side-of-tomorrow",
        "schemas.trade_kernels:_read_told",
        "v >= (SIDES_FIRST if version < 2 else SIDES_COUNT)",
        "v >= SIDES_COUNT",
        "A side that the writer's version does not have is read.",
        (f"{COLUMNS}::test_a_batch_reads_as_each_of_its_records",),
    ),
    Mutant(
        "source-of-any-bytes",
        "schemas.trade_kernels:_read_told",
        "if not is_utf8(b, p, p + length):",
        "if not is_utf8(b, p, p):",
        "A damaged trade is read as if it were whole.",
        (f"{COLUMNS}::test_a_batch_reads_as_each_of_its_records",),
    ),
    Mutant(
        "trade-time-that-runs-over",
        "schemas.trade_kernels:_decode_trade",
        "for j in range(1, 3):",
        "for j in range(1, 2):",
        "A time beyond 64 bits of nanoseconds reads as another one.",
        (f"{COLUMNS}::test_a_batch_reads_as_each_of_its_records",),
    ),
    Mutant(
        "append-time-that-runs-over",
        "streams.kernel.trade_rules:latest_of",
        "latest[ms > _MS_MAX] = INT64_MAX",
        "latest[ms > _MS_MAX] = 0",
        "By an absurd append time every trade is of the future.",
        (f"{COLUMNS}::test_the_latest_time_of_any_clock_does_not_run_over",),
    ),
    Mutant(
        "value-rules-before-the-key",
        "streams.kernel.trade_rules:TradeRules._broken",
        "if rule is not None:",
        "if rule is not None and not any(mask[row] for *_, mask in every):",
        "A trade under another key passes in canary because its price is negative too.",
        (f"{COLUMNS}::test_a_batch_is_judged_as_each_of_its_records",),
    ),
    Mutant(
        "symbol-beyond-the-table-passes",
        "streams.kernel.trade_rules:TradeRules._belong_here",
        "here[row] = self._is_mine(symbol)",
        "here[row] = True",
        "A long symbol in a partition of others is judged as right.",
        (f"{COLUMNS}::test_a_batch_is_judged_as_each_of_its_records",),
    ),
    Mutant(
        "trades-that-only-canary-reads",
        "streams.kernel.rehearsal_trades:TradesJudge.judge",
        "trades.put(where, by_canary)",
        "len(where)",
        "What strict refuses unread, by its schema, is never missing.",
        (f"{REHEARSED}::test_trades_of_a_withdrawn_schema_are_missing",),
    ),
)
