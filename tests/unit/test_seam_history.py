"""The history of a seam out of blocks, seals, ledger and log: what is trusted, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from log_writer import MINUTE, START, LogWriter, MemorySink, Record, columns_of, content
from paper_reader import Cut, PaperReader, merged, request_of
from seamline.schemas.columns import CONTENT_FIELDS, PRICE_FIELDS
from seamline.schemas.errors import ContractError
from seamline.streams.kernel.seam import OnGap
from seamline.streams.kernel.seam_broken import blocking, gap_error, unexplained_error
from seamline.streams.kernel.seam_events import SeamBroken

A, B = "BTC/USDT", "ETH/USDT"


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


def filled(sink: MemorySink, bars: int = 20, sealed: int = 16, *symbols: str) -> LogWriter:
    """`bars` bars a symbol, one transaction each, sealed up to a cell."""
    writer = LogWriter(sink)
    for cell in range(bars):
        for symbol in symbols or (A,):
            writer.bar(symbol, cell)
        writer.commit()
    for symbol in symbols or (A,):
        writer.seal(symbol, sealed)
    writer.commit()
    return writer


def tamper(sink: MemorySink, role: str, change: dict[str, object], nth: int = -1) -> None:
    offset, record = sink.logs[role][nth]
    sink.logs[role][nth] = (offset, replace(record, payload=replace(record.payload, **change)))


def alter_log(sink: MemorySink, nth: int, **change: object) -> None:
    offset, record = sink.logs["conformed"][nth]
    changed = replace(record.payload, **change)
    sink.logs["conformed"][nth] = (offset, replace(record, payload=changed))


def test_history_and_log_join_without_gap_or_duplicate(sink: MemorySink) -> None:
    filled(sink)
    [part] = PaperReader(request_of(A), sink).parts()
    assert (len(part.sealed), len(part.log)) == (16, 4)
    assert [cell for cell, _ in merged([part])] == list(range(20))
    assert (part.overlap.compared, part.overlap.equal) == (2, 2)
    assert part.gaps == part.open_gaps == part.unexplained == ()
    assert part.passed_ns == START + 20 * MINUTE


@pytest.mark.parametrize("first", [0, 3, 15, 16, 17, 19, 20, 25])
def test_a_start_anywhere_gives_exactly_the_bars_from_there(sink: MemorySink, first: int) -> None:
    filled(sink)
    [part] = PaperReader(request_of(A, first=first), sink).parts()
    assert [cell for cell, _ in merged([part])] == list(range(first, 20))
    assert part.passed_ns == START + max(first, 20) * MINUTE


@pytest.mark.parametrize("last", [1, 8, 15, 16, 17, 20, 30])
def test_an_end_anywhere_gives_exactly_the_bars_before_it(sink: MemorySink, last: int) -> None:
    filled(sink)
    [part] = PaperReader(request_of(A, last=last), sink).parts()
    assert [cell for cell, _ in merged([part])] == list(range(min(last, 20)))


def test_a_frontier_inside_a_block(sink: MemorySink) -> None:
    filled(sink, 20, 13)
    [part] = PaperReader(request_of(A), sink).parts()
    assert (len(part.sealed), len(part.log)) == (13, 7)


def test_two_symbols_come_by_time_then_symbol(sink: MemorySink) -> None:
    filled(sink, 10, 8, A, B)
    parts = PaperReader(request_of(A, B), sink).parts()
    assert merged(parts) == [(cell, symbol) for cell in range(10) for symbol in (A, B)]


def test_the_newest_revision_of_the_log_wins_and_a_completion_fills(sink: MemorySink) -> None:
    writer = filled(sink)
    writer.bar(A, 17, salt=1)
    writer.commit()
    writer.bar(A, 17, salt=2)
    writer.commit()
    writer.bar(A, 20, optional=False)
    writer.commit()
    writer.complete(A, 20)
    writer.confirm(A, 18)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    rows = {(int(t) - START) // MINUTE: i for i, t in enumerate(part.log.open_time_ns)}
    assert part.log.revision[rows[17]] == 2
    assert part.log.open[rows[17]] == content(17, 2)["open"]
    assert part.log.trades[rows[20]] == 30
    assert part.log.revision[rows[20]] == 0
    assert len(part.log) == 5


def test_the_overlap_may_be_newer_in_storage_but_not_otherwise_different(sink: MemorySink) -> None:
    writer = filled(sink)
    writer.bar(A, 15, salt=3)
    writer.seal(A, 16)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    overlap = part.overlap
    assert (overlap.compared, overlap.equal, overlap.newer) == (2, 1, 1)


def test_storage_may_fill_nulls_of_the_overlap(sink: MemorySink) -> None:
    writer = LogWriter(sink)
    for cell in range(12):
        writer.bar(A, cell, optional=False)
    writer.commit()
    writer.seal(A, 8)
    writer.commit()
    writer.complete(A, 7)
    writer.seal(A, 8)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    # One transaction brought in all bars, so the join reaches back to the first of them.
    assert (part.overlap.compared, part.overlap.equal, part.overlap.completed) == (8, 7, 1)


@pytest.mark.parametrize("name", CONTENT_FIELDS)
def test_a_log_row_that_differs_from_storage_in_one_field_breaks_the_seam(
    sink: MemorySink, name: str
) -> None:
    filled(sink)
    offset, record = sink.logs["conformed"][15]
    fields = {**record.payload.fields, name: 7777}
    sink.logs["conformed"][15] = (
        offset,
        replace(record, payload=replace(record.payload, fields=fields)),
    )
    with pytest.raises(SeamBroken) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.cause == "overlap_differs"


def test_storage_that_is_older_than_the_log_breaks_the_seam(sink: MemorySink) -> None:
    filled(sink)
    offset, record = sink.logs["conformed"][15]
    sink.logs["conformed"][15] = (
        offset,
        replace(record, payload=replace(record.payload, revision=1)),
    )
    with pytest.raises(SeamBroken) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.cause == "overlap_older"


def test_storage_without_a_bar_that_the_log_has_breaks_the_seam(sink: MemorySink) -> None:
    writer = filled(sink)
    del writer.state(A).rows[START + 15 * MINUTE]
    writer.seal(A, 16)
    writer.gap(A, 15, 16)
    writer.commit()
    with pytest.raises(SeamBroken) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.cause == "overlap_missing"


def test_rows_that_are_not_what_the_digest_says_are_refused(sink: MemorySink) -> None:
    filled(sink)
    block = sink.logs["storage"][-1][1].payload
    wrong = columns_of([])
    for digest, columns in ((bytes(32), block.columns), (block.digest, wrong)):
        tamper(sink, "storage", {"digest": digest, "columns": columns})
        with pytest.raises(ContractError) as raised:
            PaperReader(request_of(A), sink).parts()
        assert raised.value.fields["cause"] == "digest_differs"


def test_a_block_that_no_seal_was_made_over_is_refused(sink: MemorySink) -> None:
    """Rows and digest fit each other, but the seal's root is over another block."""
    filled(sink)
    other = LogWriter(MemorySink())
    other.bar(A, 0, salt=9)
    other.seal(A, 1)
    [block] = [r.payload for r in other.pending if r.role == "storage"]
    offset, record = sink.logs["storage"][0]
    forged = replace(
        block, sequence=record.payload.sequence, block_end_ns=record.payload.block_end_ns
    )
    sink.logs["storage"][0] = (offset, replace(record, payload=forged))
    with pytest.raises(ContractError) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.fields["cause"] == "root_differs"


def test_a_root_that_was_changed_is_refused(sink: MemorySink) -> None:
    filled(sink)
    tamper(sink, "seals", {"merkle_root": bytes(32)})
    with pytest.raises(ContractError) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.fields["cause"] == "root_differs"


def test_a_block_that_is_gone_from_storage_is_noticed(sink: MemorySink) -> None:
    filled(sink)
    del sink.logs["storage"][0]
    with pytest.raises(ContractError, match="Merkle root"):
        PaperReader(request_of(A), sink).parts()


def test_a_row_beyond_the_frontier_is_refused(sink: MemorySink) -> None:
    filled(sink)
    tamper(sink, "seals", {"frontier_ns": START + 10 * MINUTE})
    with pytest.raises(ContractError) as raised:
        PaperReader(request_of(A), sink).parts()
    assert raised.value.fields["cause"] == "row_beyond_frontier"


def test_seal_and_blocks_of_different_transactions_do_not_settle(sink: MemorySink) -> None:
    writer = filled(sink)
    ends = dict(sink.ends)
    writer.bar(A, 3, salt=5)
    writer.seal(A, 16)
    writer.commit()
    reader = PaperReader(request_of(A), sink)
    ahead = reader.snapshot(Cut(seals=ends["seals"]))
    assert "storage is at seal 2" in ahead.unsettled()[A]
    behind = reader.snapshot(Cut(storage=ends["storage"], seals=sink.ends["seals"]))
    assert behind.unsettled() == {}, "the seal before it is still in the log and fits"
    settled = behind.settle(A)
    assert settled.seal is not None
    assert settled.seal.sequence == 1


def test_a_seal_that_compaction_took_does_not_settle(sink: MemorySink) -> None:
    writer = filled(sink)
    ends = dict(sink.ends)
    writer.bar(A, 3, salt=5)
    writer.seal(A, 16)
    writer.commit()
    del sink.logs["seals"][0]
    behind = PaperReader(request_of(A), sink).snapshot(Cut(storage=ends["storage"]))
    assert A in behind.unsettled()


def test_an_idle_seal_moves_the_offset_without_a_block(sink: MemorySink) -> None:
    writer = filled(sink)
    later = writer.seal(A, 16, overlap=0)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    assert part.settled.seal is not None
    assert part.settled.seal.sequence == later.sequence == 2
    assert part.overlap.compared == 0


def test_a_symbol_that_was_never_sealed_is_read_from_the_log(sink: MemorySink) -> None:
    writer = LogWriter(sink)
    for cell in range(2, 6):
        writer.bar(A, cell)
        writer.commit()
    [part] = PaperReader(request_of(A, first=2), sink).parts()
    assert (len(part.sealed), len(part.log), part.gaps) == (0, 4, ())
    [early] = PaperReader(request_of(A, first=0), sink).parts()
    assert [(gap.bars, gap.cause) for gap in early.gaps] == [(2, "not_backfilled")]
    [unknown] = PaperReader(request_of(B), sink).parts()
    assert not unknown.known


def test_a_gap_is_named_by_the_ledger_or_it_breaks_the_seam(sink: MemorySink) -> None:
    writer = LogWriter(sink)
    for cell in (0, 1, 2, 6, 7, 9, 10, 11):
        writer.bar(A, cell)
    writer.gap(A, 3, 6, "venue_outage")
    writer.seal(A, 10)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    assert [(gap.bars, gap.cause) for gap in part.gaps] == [(3, "venue_outage")]
    assert [gap.bars for gap in part.unexplained] == [1]
    error = unexplained_error(request_of(A), [part])
    assert error is not None
    assert error.cause == "not_in_ledger"
    writer.gap(A, 8, 9, "no_trades")
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    assert unexplained_error(request_of(A), [part]) is None
    failing = request_of(A, on_gap=OnGap.FAIL)
    assert [gap.cause for gap in blocking(failing, [part])] == ["venue_outage"]
    assert blocking(request_of(A, on_gap=OnGap.FLAG), [part]) == []
    broken = gap_error(failing, part.gaps)
    assert broken.command is not None
    assert f"backfill run {failing.preset_id} --symbols {A}" in broken.command
    writer.gap(A, 3, None)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    assert [gap.bars for gap in part.unexplained] == [3]


def test_a_hole_above_the_frontier_is_open_not_missing(sink: MemorySink) -> None:
    writer = filled(sink)
    writer.bar(A, 22)
    writer.commit()
    [part] = PaperReader(request_of(A), sink).parts()
    assert [(gap.bars, gap.provisional) for gap in part.open_gaps] == [(2, True)]
    assert part.unexplained == ()


def test_what_was_asked_for_but_lies_before_the_first_bar_is_covered(sink: MemorySink) -> None:
    writer = filled(sink)
    writer.state(A).asked = START - 10 * MINUTE
    writer.seal(A, 16)
    writer.commit()
    [part] = PaperReader(request_of(A, first=-10), sink).parts()
    assert part.gaps == ()
    [part] = PaperReader(request_of(A, first=-13), sink).parts()
    assert [(gap.bars, gap.cause) for gap in part.gaps] == [(3, "not_backfilled")]


def test_a_first_bar_inside_its_block_begins_the_claim() -> None:
    """The frontier is the start of the block; what lies between was asked for, or it was not."""
    for asked, missing in ((0, []), (3, [(3, "not_backfilled")])):
        other = MemorySink()
        writer = LogWriter(other)
        writer.state(A).asked = START + asked * MINUTE
        for cell in (3, 4):
            writer.bar(A, cell)
        writer.seal(A, 0)
        writer.commit()
        [part] = PaperReader(request_of(A), other).parts()
        assert [(gap.bars, gap.cause) for gap in part.gaps] == missing
        assert part.open_gaps == part.unexplained == ()


@pytest.mark.parametrize(("begin", "lost"), [(14, False), (15, False), (17, True), (25, True)])
def test_a_join_point_behind_retention(sink: MemorySink, begin: int, lost: bool) -> None:
    """The seal names offset 28 (bar 14 in transactions of two offsets each)."""
    filled(sink)
    reader = PaperReader(request_of(A), sink, begin_offset=2 * begin)
    if not lost:
        [part] = reader.parts()
        assert len(part.log) == 4
        return
    with pytest.raises(SeamBroken) as raised:
        reader.parts()
    assert raised.value.cause == "join_point_gone"
    assert raised.value.command is not None
    assert raised.value.missing


def test_a_reader_that_ends_before_the_frontier_needs_no_log(sink: MemorySink) -> None:
    filled(sink)
    [part] = PaperReader(request_of(A, last=10), sink, begin_offset=50).parts()
    assert len(part.sealed) == 10


def test_provisional_by_newer_bars_and_by_watermark(sink: MemorySink) -> None:
    filled(sink)
    reader = PaperReader(request_of(A), sink)
    [part] = reader.parts()
    assert part.log_provisional.tolist() == [False, False, True, True]
    [part] = reader.parts(watermark=21)
    assert part.log_provisional.tolist() == [False, False, False, True]


def test_negative_zero_and_null_are_what_they_are_by_content(sink: MemorySink) -> None:
    writer = LogWriter(sink)
    writer.put(A, 0, {**content(0), "volume": 0.0, "quote_volume": float("nan")})
    writer.bar(A, 1)
    writer.seal(A, 1)
    writer.commit()
    offset, record = sink.logs["conformed"][0]
    fields = {**record.payload.fields, "volume": -0.0}
    sink.logs["conformed"][0] = (
        offset,
        replace(record, payload=replace(record.payload, fields=fields)),
    )
    [part] = PaperReader(request_of(A), sink).parts()
    assert (part.overlap.compared, part.overlap.equal) == (1, 1)


def test_content_is_prices_and_optional_fields() -> None:
    rows = columns_of([])
    assert all(hasattr(rows, name) for name in CONTENT_FIELDS)
    assert set(PRICE_FIELDS) < set(CONTENT_FIELDS)
    assert np.isnan(content(0, optional=False)["quote_volume"])


def test_records_of_other_symbols_are_ignored(sink: MemorySink) -> None:
    filled(sink, 20, 16, A, B)
    reader = PaperReader(request_of(B), sink)
    [part] = reader.parts()
    assert part.symbol == B
    assert len(part.sealed) + len(part.log) == 20
    assert isinstance(sink.logs["seals"][0][1], Record)
