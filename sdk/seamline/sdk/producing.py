"""`Producer`: bars of anybody onto a landing topic, judged before they are sent.

Decides: what a call may hand over, when it is refused, and when a bar counts as delivered.
Invariants: a call that raises SchemaValidationError or UsageError has sent nothing; bars are judged
by the rules and the mode by which the worker judges them, so what was let through here is not
refused there; every record is delivered, waiting or named in an error; what waits is bounded, and a
call waits for room; the registry is needed at the start alone. Must not know: how a mode comes into
force, what the worker does with a bar, how a record is laid out.

A call: 1. what earlier calls lost is told; 2. the cells are read (`given_bars`); 3. every bar is
judged; 4. counted; 5. encoded; 6. handed over. Nothing of it is sent before 6.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Final, Self

import numpy as np

from seamline.connectors.governance.follow import ModeFollower
from seamline.connectors.kafka.producer import (
    DeliveryCounts,
    IdempotentProducer,
    ProducerSettings,
)
from seamline.connectors.kafka.topics import assert_partitions
from seamline.connectors.metrics import ValidationFailures
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.codec_kernels import SYMBOL_BYTES_MAX
from seamline.schemas.columns import I8, WS_OPEN, BarColumns, Bool
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import SchemaValidationError, TransportError, UsageError
from seamline.schemas.modes import MODES, Policy, default_mode
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_time
from seamline.schemas.topics import (
    LANDING_ROLES,
    producer_name,
    subject_of,
    topic_name,
)
from seamline.sdk.delivery_ledger import DeliveryLedger
from seamline.sdk.given_bars import columns_of, source_of
from seamline.sdk.landing_records import LIVE, LandingRecords, Record
from seamline.streams.kernel.breach import broken_field
from seamline.streams.kernel.intake import CLOCK_SKEW_NS
from seamline.streams.kernel.validate import (
    FUTURE_TIME,
    RULES,
    TOMBSTONED,
    first_rule,
    judged,
    outcome,
)

RAISE: Final = "raise"
QUARANTINE: Final = "quarantine"
ON_INVALID: Final = (RAISE, QUARANTINE)
FLUSH_S: Final = 30.0
# Some seconds of a fast feed; a broker that is away fills this, and then a call waits.
SETTINGS: Final = ProducerSettings(linger_ms=1, queue_messages=20_000, queue_kbytes=16_384)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the bars of one call. Of the sent ones `failed` broke a rule and passed all
    the same (canary). `rules`: rule -> bars that broke it, whatever became of them."""

    sent: int = 0
    failed: int = 0
    quarantined: int = 0
    rules: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class Producer:
    """Sends bars of one preset. Use `with`, or `close`. May be shared by threads.

    `name` says who sends, to everybody who reads the records (at most 64 bytes). `topic`: `live`
    (one record a bar) or `backfill` (blocks). `source`: which authority the bars have, one of
    `rest_settled, ws_closed, rest_fresh, ws_open`; for `live` it is `ws_closed` if not given, for
    `backfill` it must be. `ws_open` bars are previews: nobody keeps them.

    Bars are judged in the mode of the topic's subject, which is followed while the process runs.
    In `canary` a bar that breaks a value rule is counted and sent; in `strict` the call raises
    SchemaValidationError, or with `on_invalid="quarantine"` those bars go to the preset's
    quarantine and the others are sent. What cannot be a bar at all (a price that is not finite, a
    close in the future, a time off the grid of a preset that refuses those) never passes.

    `failures` (`connectors.metrics`) is where failures are counted, the series of a registry of
    its own if not given. Raises UsageError for a wrong argument, ContractError when topics or the
    schema in the registry are not the preset's, TransportError when broker or registry do not
    answer at the start.
    """

    def __init__(
        self,
        preset: str,
        *,
        name: str,
        topic: str = LIVE,
        source: str | None = None,
        on_invalid: str = RAISE,
        world: World | None = None,
        presets: Mapping[str, Preset] | None = None,
        failures: ValidationFailures | None = None,
        settings: ProducerSettings = SETTINGS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        found = presets if presets is not None else loader.load(None, os.environ)
        self.preset = _landed(loader.get(found, preset))
        self._source = _source(topic, source)
        self._quarantines = _choice("on_invalid", on_invalid, ON_INVALID) == QUARANTINE
        self._clock = clock
        self._subject = subject_of(topic_name(self.preset.id, topic))
        self._lock = threading.RLock()
        self._ledger = DeliveryLedger()
        self._told = 0
        self._open = False
        who, mode = producer_name(name), default_mode(os.environ)
        self.failures = failures if failures is not None else ValidationFailures()
        self.failures.create([self._subject], MODES)
        resolved = world if world is not None else World.resolve(os.environ)
        assert_partitions(resolved.cluster, self.preset, (topic, "quarantine"))
        with ExitStack() as undo:
            self._modes = ModeFollower(resolved.cluster, mode, subjects=(self._subject,))
            undo.callback(self._modes.stop)
            self._modes.start()
            self._records = LandingRecords(self.preset, topic, self._ids(resolved, topic), who)
            self._producer = IdempotentProducer(
                resolved.cluster, settings, settled=self._ledger.settled
            )
            undo.pop_all()
        self._open = True

    @property
    def mode(self) -> str:
        """The mode in force now: `canary` or `strict`."""
        return self._modes.policy(self._subject).mode

    @property
    def counts(self) -> DeliveryCounts:
        """Records sent, delivered and failed so far, those of the quarantine included."""
        with self._lock:
            self._producer.poll()
            return self._producer.counts

    def send_bars(self, symbol: str, bars: object) -> Sent:
        """Send bars of one symbol, in their order; returns when they are queued.

        `bars`: a sequence of mappings, a mapping of columns, a pandas DataFrame, a pyarrow Table,
        or the columns of a stream's history. Fields: `open_time` (a time with a zone) or
        `open_time_ns` (UTC), `open`, `high`, `low`, `close`, `volume`, and if known
        `quote_volume`, `trades`, `first_trade_id`, `last_trade_id`, `received_time[_ns]`.

        Raises, with nothing sent: UsageError naming row and field of a value of a wrong type,
        SchemaValidationError for bars that may not pass (its fields: that of the first bar, how
        many there are), TransportError for records of an earlier call that did not arrive. A
        TransportError where the queue stays full says how many bars of this call were queued; the
        same call again repeats nothing, the worker knows a bar that it has.
        """
        with self._lock:
            self._check_open()
            self._tell_lost()
            _check_symbol(symbol)
            now_ns = self._clock()
            columns = columns_of(symbol, bars, source=self._source, now_ns=now_ns)
            if not len(columns):
                return Sent()
            policy = self._modes.policy(self._subject)
            rules, blocked = self._judge(columns, policy, now_ns)
            failed = int(np.count_nonzero(rules))
            if failed:
                self.failures.add(self._subject, policy.mode, failed)
            if blocked.any() and not self._quarantines:
                raise self._refused(symbol, columns, rules, blocked, policy)
            records = [
                *self._records.of(symbol, columns.take(~blocked)),
                *self._records.quarantined(symbol, columns.take(blocked), rules[blocked], now_ns),
            ]
            self._hand_over(symbol, records)
            held_back = int(np.count_nonzero(blocked))
            return Sent(len(columns) - held_back, failed - held_back, held_back, _by_rule(rules))

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until everything sent is acknowledged.

        Raises TransportError naming, by symbol, what was lost or is not acknowledged in time
        (`fields["undelivered"]`; the latter waits on, and may be flushed again).
        """
        with self._lock:
            self._check_open()
            try:
                self._producer.flush(timeout_s)
            except TransportError as error:
                raise self._undelivered(error) from error

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Flush and leave. Raises as `flush` does; what is not acknowledged by then is dropped, and
        may have arrived or not. Safe to call twice."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._modes.stop()
            try:
                self._producer.flush(timeout_s)
            except TransportError as error:
                raise self._undelivered(error) from error
            finally:
                self._producer.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except TransportError as undelivered:
            if error is None:
                raise
            error.add_note(f"And on closing the producer: {undelivered}")

    def _ids(self, world: World, role: str) -> Mapping[str, int]:
        """Schema name -> id, of what the registry has by our content. It is not asked again."""
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        try:
            return ensure_registered(
                client,
                self.preset,
                lambda subject: self._modes.policy(subject).mode,
                roles=(role,),
                count=lambda subject, mode: self.failures.add(subject, mode, 1),
            )
        finally:
            client.close()

    def _judge(self, columns: BarColumns, policy: Policy, now_ns: int) -> tuple[I8, Bool]:
        """The broken rules of each bar, and which may not pass."""
        preset = self.preset
        _, rules = judged(
            columns,
            interval_ns=preset.interval_ns,
            origin_ns=preset.grid_origin_ns,
            latest_ns=now_ns + CLOCK_SKEW_NS,
        )
        # A bar that is still open closes in the future by its nature.
        rules[~columns.closed] &= ~FUTURE_TIME
        if SCHEMAS[self._records.schema].fingerprint in policy.tombstones:
            rules |= TOMBSTONED
        blocked, _ = outcome(rules, mode=policy.mode, off_grid=preset.off_grid)
        return rules, blocked

    def _refused(
        self, symbol: str, columns: BarColumns, rules: I8, blocked: Bool, policy: Policy
    ) -> SchemaValidationError:
        row = int(blocked.argmax())
        broken, off_grid = int(rules[row]), self.preset.off_grid
        name, value = broken_field(broken, columns, row, off_grid)
        count, open_ns = int(np.count_nonzero(blocked)), int(columns.open_time_ns[row])
        schema = SCHEMAS[self._records.schema]
        version = f"{schema.name} v{schema.version}"
        return SchemaValidationError(
            f"{count} of {len(columns)} bars of {symbol} may not pass, the first is bars[{row}] of "
            f"{format_time(open_ns)}; nothing of the call was sent",
            subject=self._subject,
            field=name,
            value=value,
            rule=first_rule(broken, off_grid),
            writer_schema=version,
            reader_schema=version,
            fix='Mend or leave out those bars, or make the producer with on_invalid="quarantine"',
            mode=policy.mode,
            mode_version=policy.version,
            symbol=symbol,
            row=row,
            open_time_ns=open_ns,
            invalid=count,
            bars=len(columns),
            rules=dict(_by_rule(rules[blocked])),
        )

    def _hand_over(self, symbol: str, records: Sequence[Record]) -> None:
        queued = 0
        for record in records:
            self._ledger.handed(symbol)
            sent = self._producer.counts.sent
            try:
                self._producer.send(
                    *(record.topic, record.key, record.value, record.headers),
                    partition=record.partition,
                )
            except TransportError as error:
                if self._producer.counts.sent == sent:
                    self._ledger.never_queued(symbol)
                total = sum(each.bars for each in records)
                raise TransportError(
                    f"{queued} of {total} bars of this call were queued: {error.message}",
                    parameter=error.parameter,
                    value=error.value,
                    fix=error.fix,
                    retriable=error.retriable,
                    queued=queued,
                    bars=total,
                    symbol=symbol,
                ) from error
            queued += record.bars

    def _tell_lost(self) -> None:
        self._producer.poll()
        if self._producer.counts.failed > self._told:
            self.flush(0.0)

    def _undelivered(self, error: TransportError) -> TransportError:
        self._told = self._producer.counts.failed
        named, words = self._ledger.undelivered()
        return TransportError(
            f"{sum(named.values())} records were not delivered: {words}: {error.message}",
            parameter=error.parameter,
            value=error.value,
            fix=error.fix,
            retriable=error.retriable,
            undelivered=named,
        )

    def _check_open(self) -> None:
        if not self._open:
            raise UsageError(
                "the producer is closed", parameter="producer", fix="Make a new Producer"
            )


def _by_rule(rules: I8) -> Mapping[str, int]:
    counts = {name: int(np.count_nonzero(rules & bit)) for bit, name in RULES.items()}
    return MappingProxyType({name: count for name, count in counts.items() if count})


def _landed(preset: Preset) -> Preset:
    if preset.kind != "ohlcv":
        raise UsageError(
            f"a preset of kind {preset.kind} has no bars",
            parameter="preset",
            value=preset.id,
            fix="Take a preset of kind ohlcv",
        )
    if preset.derive_from is not None:
        raise UsageError(
            "a derived preset has no landing topics",
            parameter="preset",
            value=preset.id,
            fix=f"Send to {preset.derive_from}",
        )
    return preset


def _source(topic: str, source: str | None) -> int:
    _choice("topic", topic, LANDING_ROLES)
    if source is None and topic != LIVE:
        raise UsageError(
            "nobody says which authority these bars have",
            parameter="source",
            value=None,
            fix="Give rest_settled for history that is final, rest_fresh for what may change",
        )
    found = source_of(source or "ws_closed")
    if topic != LIVE and found == WS_OPEN:
        raise UsageError(
            "a block has no open bars", parameter="source", value=source, fix="Send them to live"
        )
    return found


def _choice(parameter: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UsageError(
            "no such choice", parameter=parameter, value=value, fix=f"One of {', '.join(choices)}"
        )
    return value


def _check_symbol(symbol: object) -> None:
    if not isinstance(symbol, str) or not symbol.isprintable() or not symbol.strip():
        raise UsageError("no symbol", parameter="symbol", value=symbol, fix="Give BTC/USDT")
    if len(symbol.encode()) > SYMBOL_BYTES_MAX:
        fix = f"At most {SYMBOL_BYTES_MAX} bytes"
        raise UsageError("a symbol that long is none", parameter="symbol", value=symbol, fix=fix)
