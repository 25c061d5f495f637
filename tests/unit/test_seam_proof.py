"""A certificate against what Kafka holds later: what is explained, and what must never be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from log_writer import MINUTE, START, LogWriter, MemorySink, columns_of
from paper_reader import Cut, PaperReader, request_of
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.streams.kernel.seam import Part
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_proof import (
    EXPIRED,
    REVISED,
    UNEXPLAINED,
    VERIFIED,
    Now,
    Verdict,
    certify,
    recheck,
)

A = "BTC/USDT"


class Plane:
    """One symbol: eight sealed bars, four in the log, and a certificate of them."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.writer = LogWriter(self.sink)
        for cell in range(12):
            self.writer.bar(A, cell)
            self.writer.commit()
        self.writer.seal(A, 8)
        self.writer.commit()
        self.reader = PaperReader(request_of(A), self.sink)
        self.parts = self.reader.parts()
        self.fence = self.sink.ends["conformed"]
        self.certificate = certify(self.reader.request, self.parts, {A: 0}, {}, made_ns=START)

    def log(self, start: int, stop: int) -> ConformedColumns:
        return columns_of(r.payload for r in self.reader.read("conformed", start, stop))

    def now(self) -> Now:
        seal = self.parts[0].settled.seal
        assert seal is not None
        replaced = columns_of(r.payload for r in self.reader.read("superseded", 0, 2**62))
        return Now(
            self.reader.snapshot(Cut()).settle(A),
            self.log(seal.conformed_offset, self.fence),
            self.log(self.fence, 2**62),
            True,
            replaced,
        )

    def verdict(self, now: Now | None = None) -> Verdict:
        return recheck(self.certificate, {A: now or self.now()})


def test_nothing_changed_is_verified() -> None:
    plane = Plane()
    verdict = plane.verdict()
    assert verdict.status == VERIFIED
    assert (verdict.blocks_checked, verdict.log_bars_checked) == (1, 4)


def test_a_later_revision_is_explained_by_superseded() -> None:
    plane = Plane()
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 8)
    plane.writer.commit()
    verdict = plane.verdict()
    assert verdict.status == REVISED
    assert [(c.by, c.revised) for c in verdict.changes] == [("superseded", 1)]


def test_a_revision_of_the_last_known_instant_is_explained() -> None:
    """The horizon is the newest known time that the certificate saw, and includes it."""
    plane = Plane()
    plane.writer.bar(A, 7, salt=1)  # the newest bar of the sealed block
    plane.writer.seal(A, 8)
    plane.writer.commit()
    assert plane.verdict().status == REVISED


def test_a_revision_without_the_replaced_value_is_not_explained() -> None:
    plane = Plane()
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 8)
    plane.writer.commit()
    now = replace(plane.now(), superseded=columns_of([]))
    verdict = plane.verdict(now)
    assert verdict.status == UNEXPLAINED
    assert [change.status for change in verdict.changes] == [UNEXPLAINED]


def test_rows_with_an_old_known_time_and_other_values_are_not_explained() -> None:
    plane = Plane()
    now = plane.now()
    (block,) = now.settled.blocks
    assert block.columns is not None
    columns = replace(block.columns, close=block.columns.close + 1)
    forged = replace(block, columns=columns, digest=block_digest(A, columns))
    verdict = plane.verdict(replace(now, settled=replace(now.settled, blocks=(forged,))))
    assert verdict.status == UNEXPLAINED


def test_a_block_that_is_gone_is_not_explained() -> None:
    plane = Plane()
    now = plane.now()
    verdict = plane.verdict(replace(now, settled=replace(now.settled, blocks=())))
    assert verdict.status == UNEXPLAINED


def test_another_log_is_not_explained_and_a_deleted_one_has_expired() -> None:
    plane = Plane()
    now = plane.now()
    other = replace(now.log, close=now.log.close + 1)
    assert plane.verdict(replace(now, log=other)).status == UNEXPLAINED
    assert plane.verdict(replace(now, retained=False)).status == EXPIRED


def test_bars_that_came_twice_have_no_certificate() -> None:
    plane = Plane()
    (part,) = plane.parts
    twice: Part = replace(part, log=part.sealed.take(slice(7, 8)))
    with pytest.raises(UsageError, match="time occurs twice"):
        certify(plane.reader.request, [twice], {A: 0}, {}, made_ns=START)
    assert plane.certificate.duplicates == 0


def test_a_certificate_that_was_changed_is_refused() -> None:
    plane = Plane()
    text = plane.certificate.to_json()
    assert Certificate.from_json(text) == plane.certificate
    tree = json.loads(text)
    tree["bars_log"] += 1
    with pytest.raises(ContractError, match="its hash does not fit"):
        Certificate.from_json(json.dumps(tree))


def test_a_certificate_names_what_it_saw() -> None:
    plane = Plane()
    certificate = plane.certificate
    assert (certificate.bars_history, certificate.bars_log) == (8, 4)
    (entry,) = certificate.symbols
    assert entry["frontier"] is not None
    assert entry["history"]["known_through"] is not None
    assert certificate.contiguous
    assert START % MINUTE == 0
