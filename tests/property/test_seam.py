"""Whatever the writer does, wherever the cuts fall and however topics interleave: every bar once.

A writer runs a random series of transactions. The reader takes each topic to another place (in the
order of the protocol), then gets the rest of conformed, storage and gaps in a random interleaving.
What it was told must add up to the writer's final state, and the certificate must be explained.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from log_writer import MINUTE, START, LogWriter, MemorySink, Record, columns_of
from paper_reader import Cut, PaperReader, request_of
from random_acts import RandomActs
from seamline.schemas.columns import ConformedColumns
from seamline.streams.kernel.seam_broken import unexplained_error
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import bars_of
from seamline.streams.kernel.seam_proof import REVISED, VERIFIED, Now, certify, recheck

END = 2**62
SYMBOLS = ("BTC/USDT", "ETH/USDT")


def run_writer(seed: int, transactions: int) -> tuple[LogWriter, MemorySink, list[dict[str, int]]]:
    """The ends of the topics after each transaction are the places where a reader may cut."""
    sink = MemorySink()
    acts = RandomActs(LogWriter(sink), SYMBOLS, seed)
    ends: list[dict[str, int]] = [{}]
    for _ in range(transactions):
        acts.transaction()
        ends.append(dict(sink.ends))
    acts.seal_all()
    ends.append(dict(sink.ends))
    return acts.writer, sink, ends


@given(
    seed=st.integers(0, 2**32),
    transactions=st.integers(1, 24),
    cuts=st.tuples(*[st.floats(0, 1)] * 4),
    first=st.integers(0, 12),
    order=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_what_a_reader_is_told_is_what_the_writer_holds(
    seed: int, transactions: int, cuts: tuple[float, ...], first: int, order: int
) -> None:
    writer, sink, ends = run_writer(seed, transactions)
    places = sorted(int(cut * (len(ends) - 1)) for cut in cuts)
    reader = PaperReader(request_of(*SYMBOLS, first=first), sink)
    cut = settle(reader, ends, places)
    follower = reader.begin(cut)
    for record in interleaved(reader, cut, random.Random(order)):
        reader.feed(follower, record)
    expected = {
        (symbol, bar.open_time_ns): bar
        for symbol in SYMBOLS
        for bar in bars_of(
            symbol, columns_of(row for _, row in sorted(writer.state(symbol).rows.items()))
        )
        if bar.open_time_ns >= START + first * MINUTE
    }
    assert reader.contents() == {where: bar.content for where, bar in expected.items()}
    check_certificate(reader, cut)


def settle(reader: PaperReader, ends: list[dict[str, int]], places: list[int]) -> Cut:
    """As the reader's steps: fence of conformed first; storage and seals further until they fit."""
    conformed, *rest = places
    for at in range(rest[0], len(ends)):
        storage, seals, gaps = at, max(at, rest[1]), max(at, rest[2])
        for further in range(seals, len(ends)):
            cut = Cut(
                ends[conformed].get("conformed", 0),
                ends[storage].get("storage", 0),
                ends[further].get("seals", 0),
                ends[max(gaps, further)].get("gaps", 0),
            )
            if reader.snapshot(cut).unsettled():
                continue
            if unexplained_error(reader.request, reader.parts(cut)) is None:
                return cut
    raise AssertionError("the last transaction always settles")


def interleaved(reader: PaperReader, cut: Cut, rng: random.Random) -> Iterator[Record]:
    queues = [
        list(reader.read("conformed", cut.conformed, END)),
        list(reader.read("storage", cut.storage, END)),
        list(reader.read("gaps", cut.gaps, END)),
    ]
    while any(queues):
        yield rng.choice([queue for queue in queues if queue]).pop(0)


def check_certificate(reader: PaperReader, cut: Cut) -> None:
    """Made at the cut, checked against everything that was written later."""
    parts = reader.parts(cut)
    partitions = dict.fromkeys(SYMBOLS, 0)
    made = certify(reader.request, parts, partitions, {}, made_ns=START)
    certificate = Certificate.from_json(made.to_json())
    assert certificate == made
    assert certificate.contiguous
    after = reader.snapshot(Cut())
    joins = [part.settled.seal.conformed_offset for part in parts if part.settled.seal is not None]
    start = min(joins) if len(joins) == len(parts) else 0
    now = {}
    for symbol in SYMBOLS:

        def rows(role: str, start: int, stop: int, symbol: str = symbol) -> ConformedColumns:
            records = reader.read(role, start, stop)
            return columns_of(r.payload for r in records if r.symbol == symbol)

        log, later = rows("conformed", start, cut.conformed), rows("conformed", cut.conformed, END)
        now[symbol] = Now(after.settle(symbol), log, later, True, rows("superseded", 0, END))
    verdict = recheck(certificate, now)
    assert verdict.status in (VERIFIED, REVISED), verdict
