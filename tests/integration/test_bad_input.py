"""Bad input on the real broker, through the real `seamline worker`: what a person sees of it.

Two workers, one in canary and one in strict mode, are fed the same records: for each case a good
bar, the bad record, and a good bar after it. Each case says what is in quarantine then, with which
reason and detail, bytes and origin as they came, what the metrics count, and which bars arrive.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import KafkaException, Producer

from avro_peer import bar_records, write
from e2e.workers import WorkerProcess, await_that
from machine_world import START_NS, Row, columns_of
from preset_making import FreshPreset, make_preset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.columns import SUSPECT
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_OUTAGES,
    HEADER_VENUE,
    HEADER_WATERMARK_NS,
    partition_of,
    subject_of,
)

pytestmark = pytest.mark.timeout(900)  # two workers compile first, on a machine with others
PARTITIONS = 2
DEADLINE_S = 600.0
YEAR_2300_MS = 10_413_792_000_000
MODES = ("canary", "strict")
Headers = tuple[tuple[str, bytes], ...]


@dataclass
class Case:
    """One bad record beside the good bars of a symbol of its own. `reason`: of its quarantine, by
    mode; None: it passes. `detail`: a part of what people are told."""

    name: str
    reason: dict[str, str | None]
    detail: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    key: bytes | None = None
    wrong_partition: bool = False
    headers: Headers = ()
    null: bool = False
    cut: int | None = None
    schema_id: int | None = None

    @property
    def symbol(self) -> str:
        return f"{self.name.upper().replace(' ', '')}/USDT"

    def record(self, ids: Any) -> tuple[bytes | None, bytes | None, Headers, int]:
        """Key, value, headers, partition."""
        partition = partition_of(self.symbol, PARTITIONS)
        if self.wrong_partition:
            partition = 1 - partition
        if self.null:
            return self.key, None, self.headers, partition
        (plain,) = bar_records([self.symbol], columns_of([Row(self.symbol, 1, 100.0)]))
        body = write("bar", {**plain, **self.fields})[5:]
        schema_id = ids["bar"] if self.schema_id is None else self.schema_id
        value = (b"\0" + schema_id.to_bytes(4, "big") + body)[: self.cut]
        key = self.symbol.encode() if self.key is None else self.key
        return key, value, self.headers, partition


def both(reason: str) -> dict[str, str | None]:
    return dict.fromkeys(MODES, reason)


def strict(reason: str) -> dict[str, str | None]:
    return {"canary": None, "strict": reason}


def beat(watermark: bytes, *more: tuple[str, bytes]) -> Headers:
    return ((HEADER_VENUE, b"somebody"), (HEADER_WATERMARK_NS, watermark), *more)


OF_A_BLOCK = ((HEADER_FINGERPRINT, SCHEMAS["bar_block"].header),)
CASES = (
    Case("truncated", both("undecodable"), "truncated", cut=-3),
    Case("no frame", both("undecodable"), "not framed", cut=3),
    Case("unknown id", both("unknown_schema"), "schema id 2147483647", schema_id=2**31 - 1),
    Case("crossed", strict("ohlc_inconsistent"), "ohlc_inconsistent", {"high": 1.0}),
    Case("negative", strict("negative_volume"), "negative_volume", {"volume": -1.0}),
    Case("nan", both("non_finite"), "non_finite", {"close": float("nan")}),
    Case("far", both("invalid_timestamp"), "", {"open_time": YEAR_2300_MS}),
    Case("ahead", both("future_time"), "future_time", {"open_time": YEAR_2300_MS // 2}),
    Case("nobody", both("undecodable"), "bad_symbol", {"symbol": ""}, key=b""),
    Case("huge", both("undecodable"), "bad_symbol", {"symbol": "A" * 1_000_000}),
    Case("other key", both("key_mismatch"), "UTF-8 symbol", key=b"OTHER/USDT"),
    Case("no key", both("key_mismatch"), "UTF-8 symbol", key=b""),
    Case("elsewhere", both("wrong_partition"), "murmur2", wrong_partition=True),
    Case("lying", both("fingerprint_mismatch"), "a bar, the header says", headers=OF_A_BLOCK),
    Case("no headers", both("null_value"), "no heartbeat headers", null=True),
    Case("soon", both("null_value"), "no heartbeat headers", headers=beat(b"soon"), null=True),
    Case("tomorrow", both("future_time"), "watermark", headers=beat(b"9" + b"0" * 18), null=True),
    Case(
        "fairy",
        dict.fromkeys(MODES),
        headers=beat(b"1600000000000000000", (HEADER_OUTAGES, b"nonsense")),
        null=True,
    ),
)


@dataclass
class Run:
    """A worker in one mode, fed with every case; what it left behind."""

    mode: str
    fresh: FreshPreset
    worker: WorkerProcess
    offsets: dict[str, tuple[int, int]] = field(default_factory=dict)
    quarantine: list[Message] = field(default_factory=list)
    conformed: dict[tuple[str, int], int] = field(default_factory=dict)
    metrics: str = ""

    def feed(self) -> None:
        producer = IdempotentProducer(self.fresh.world.cluster)
        admin = Admin(self.fresh.world.cluster)
        live = self.fresh.topic("live")

        def bar(case: Case, minute: int) -> None:
            columns = columns_of([Row(case.symbol, minute, 100.0)])
            (value,) = encode_bars([case.symbol], columns, self.fresh.ids["bar"])
            producer.send(live, case.symbol.encode(), value)

        for case in CASES:
            bar(case, 0)
            producer.flush()
            key, value, headers, partition = case.record(self.fresh.ids)
            self.offsets[case.name] = (
                partition,
                admin.end_offsets([(live, partition)])[live, partition],
            )
            producer.send(live, key, value, list(headers), partition=partition)
            producer.flush()
            bar(case, 2)
        producer.close()

    def scrape(self) -> str:
        port = self.worker.log.read_text().split("http://127.0.0.1:")[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def count(self, series: str) -> float:
        """The value of a series, 0 where it is not there."""
        for line in self.metrics.splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def read(self) -> None:
        self.quarantine = records_of(self.fresh, "quarantine")
        self.conformed = bars_of(self.fresh)
        self.metrics = self.scrape()

    def refused(self, case: Case) -> Message | None:
        partition, offset = self.offsets[case.name]
        where = str(partition).encode(), str(offset).encode()
        for message in self.quarantine:
            headers = dict(message.headers)
            origin = headers["seamline-origin-partition"], headers["seamline-origin-offset"]
            if origin == where:
                return message
        return None


def records_of(fresh: FreshPreset, role: str) -> list[Message]:
    tps = [(fresh.topic(role), partition) for partition in range(PARTITIONS)]
    admin = Admin(fresh.world.cluster)
    batches = read_range(fresh.world.cluster, admin.begin_offsets(tps), admin.end_offsets(tps))
    return [message for batch in batches for message in batch]


def bars_of(fresh: FreshPreset) -> dict[tuple[str, int], int]:
    """(symbol, minute) -> flags of every conformed bar."""
    decoder = ConformedDecoder()
    decoded = decoder.decode([m.value for m in records_of(fresh, "conformed") if m.value])
    minutes = (decoded.columns.open_time_ns - START_NS) // (60 * NS_PER_S)
    return {
        (decoder.symbols[sid], minute): flags
        for sid, minute, flags in zip(
            *(decoded.sid.tolist(), minutes.tolist(), decoded.columns.flags.tolist()), strict=True
        )
    }


def command(fresh: FreshPreset, directory: Path, more: Sequence[str]) -> list[str]:
    head = [sys.executable, "-m", "seamline.sdk.cli", "worker", fresh.preset.id]
    return [*head, "--dir", str(directory), *more]


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    made: dict[str, Run] = {}
    with pytest.MonkeyPatch.context() as patch:
        for mode in MODES:
            directory = tmp_path_factory.mktemp(mode)
            fresh = make_preset(world, directory, partitions=PARTITIONS)
            patch.setenv("SEAMLINE_PRESETS_FILE", str(fresh.file))
            patch.setenv("SEAMLINE_SCHEMA_VALIDATION_MODE", mode)
            argv = command(fresh, directory / "worker", ("--metrics-port", "0"))
            worker = WorkerProcess(mode, directory / "worker", world, argv)
            made[mode] = Run(mode, fresh, worker)
            worker.start()
    logs = {run.mode: run.worker.log for run in made.values()}
    last = {(case.symbol, 2) for case in CASES}
    try:
        for run in made.values():
            run.feed()
        for run in made.values():
            what = f"good bars after every case, {run.mode}"
            await_that(lambda of=run: last <= bars_of(of.fresh).keys(), DEADLINE_S, what, logs)  # type: ignore[misc]
            run.read()
        yield made
    finally:
        for run in made.values():
            run.worker.end()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_a_person_sees_of(case: Case, mode: str, runs: dict[str, Run]) -> None:
    run = runs[mode]
    reason = case.reason[mode]
    refused = run.refused(case)
    assert {(case.symbol, 0), (case.symbol, 2)} <= run.conformed.keys()
    if reason is None:
        assert refused is None
        if not case.null:
            assert run.conformed[case.symbol, 1] & SUSPECT
        return
    assert (case.symbol, 1) not in run.conformed
    assert refused is not None, "the record disappeared"
    key, value, headers, partition = case.record(run.fresh.ids)
    assert (refused.key or b"", refused.value or b"") == (key or b"", value or b"")
    shown = dict(refused.headers)
    assert shown["seamline-reason"] == reason.encode()
    assert case.detail in shown["seamline-detail"].decode() and len(shown["seamline-detail"]) < 500
    assert shown["seamline-origin-topic"] == run.fresh.topic("live").encode()
    assert shown["seamline-origin-partition"] == str(partition).encode()
    assert int(shown["seamline-origin-timestamp-ms"]) > 0
    assert refused.headers[: len(headers)] == headers


@pytest.mark.parametrize("mode", MODES)
def test_the_metrics_count_each_of_them(mode: str, runs: dict[str, Run]) -> None:
    run = runs[mode]
    preset_id = run.fresh.preset.id
    reasons = [reason for case in CASES if (reason := case.reason[mode])]
    for reason in set(reasons):
        series = f'seamline_worker_quarantined_total{{preset="{preset_id}",reason="{reason}"}}'
        assert run.count(series) == reasons.count(reason), reason
    subject = subject_of(run.fresh.topic("live"))
    failures = f'seamless_schema_validation_failures_total{{mode="{mode}",subject="{subject}"}}'
    flagged = sum(case.reason[mode] is None and not case.null for case in CASES)
    assert run.count(failures) == len(reasons) + flagged
    rows = f'seamline_worker_rows_total{{kind="%s",preset="{preset_id}"}}'
    assert run.count(rows % "invalid_outages") == 1
    assert run.count(rows % "heartbeats") == 1
    assert len(run.quarantine) == len(reasons)


def test_a_record_larger_than_a_topic_takes_is_kept_in_part(runs: dict[str, Run]) -> None:
    """Compressed it fits into `live`; quarantine has its beginning and says how large it was."""
    run = runs["canary"]
    live, size = run.fresh.topic("live"), 3_000_000
    producer = Producer(
        {
            "bootstrap.servers": run.fresh.world.cluster.bootstrap,
            "compression.type": "gzip",
            "message.max.bytes": 2 * size,
        }
    )
    producer.produce(live, b"A" * size, b"BIG/USDT", partition=0)
    assert producer.flush(30) == 0

    def kept() -> list[Message]:
        return [m for m in records_of(run.fresh, "quarantine") if m.key == b"BIG/USDT"]

    await_that(lambda: bool(kept()), DEADLINE_S, "its quarantine", {"worker": run.worker.log})
    (message,) = kept()
    shown = dict(message.headers)
    assert shown["seamline-origin-bytes"] == str(size + 8).encode()
    assert shown["seamline-reason"] == b"undecodable"
    assert message.value is not None
    assert set(message.value) == {ord("A")} and 800_000 < len(message.value) < size


def test_a_header_whose_name_is_no_utf8_stops_nobody(runs: dict[str, Run]) -> None:
    """No client of ours can write one, others can, and the broker takes it."""
    run = runs["canary"]
    live, name, odd = run.fresh.topic("live"), b"name-of-it", b"n\xff\xfe-of-it-"
    columns = columns_of([Row("ODD/USDT", 1, 100.0)])
    (good,) = encode_bars(["ODD/USDT"], columns, run.fresh.ids["bar"])

    async def send() -> None:
        made: Any = AIOKafkaProducer
        producer = made(bootstrap_servers=run.fresh.world.cluster.bootstrap)
        await producer.start()
        batch = producer.create_batch()
        for value in (b"junk", good):
            headers = [(name.decode(), b"x")]
            batch.append(key=b"ODD/USDT", value=value, timestamp=None, headers=headers)
        data = bytearray(batch._build().replace(name, odd))
        data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
        batch._buffer = data
        partition = partition_of("ODD/USDT", PARTITIONS)
        await (await producer.send_batch(batch, live, partition=partition))
        await producer.stop()

    asyncio.run(send())

    def arrived() -> bool:
        return ("ODD/USDT", 1) in bars_of(run.fresh)

    await_that(arrived, DEADLINE_S, "the bar behind it", {"worker": run.worker.log})
    (kept,) = [m for m in records_of(run.fresh, "quarantine") if m.key == b"ODD/USDT"]
    assert kept.value == b"junk"
    assert "n\ufffd\ufffd-of-it-" in dict(kept.headers)
    # Who else reads the topic (a rehearsal, a live connector that starts) gets by as well.
    landed = [m for m in records_of(run.fresh, "live") if m.key == b"ODD/USDT"]
    assert [(m.value, m.headers) for m in landed] == [(b"junk", ()), (good, ())]


def test_a_hung_transaction_holds_back_its_partition_alone(runs: dict[str, Run]) -> None:
    """A third party opens a transaction on `live` and stops: the other partition goes on, the lag
    shows, and when the broker ends the transaction everything behind it arrives."""
    run = runs["canary"]
    cluster, live = run.fresh.world.cluster, run.fresh.topic("live")
    settings = {"bootstrap.servers": cluster.bootstrap, "transactional.id": f"hung {live}"}
    greedy = Producer({**settings, "transaction.timeout.ms": 60_000})
    with pytest.raises(KafkaException, match="imeout"):
        greedy.init_transactions(20)  # the broker allows 30 s
    hung = Producer({**settings, "transaction.timeout.ms": 15_000})
    hung.init_transactions(60)
    hung.begin_transaction()
    hung.produce(live, b"never", b"HUNG/USDT", partition=0)
    assert hung.flush(30) == 0
    names = [f"S{number}/USDT" for number in range(20)]
    symbols = [next(n for n in names if partition_of(n, PARTITIONS) == p) for p in (0, 1)]
    producer = IdempotentProducer(cluster)
    for symbol in symbols:
        columns = columns_of([Row(symbol, 5, 100.0)])
        (value,) = encode_bars([symbol], columns, run.fresh.ids["bar"])
        producer.send(live, symbol.encode(), value)
    producer.close()
    logs = {"worker": run.worker.log}

    def arrived(symbol: str) -> bool:
        return (symbol, 5) in bars_of(run.fresh)

    await_that(lambda: arrived(symbols[1]), DEADLINE_S, "the other partition goes on", logs)
    await_that(lambda: arrived(symbols[0]), DEADLINE_S, "the partition itself, later", logs)
    assert not [m for m in records_of(run.fresh, "quarantine") if m.key == b"HUNG/USDT"]
