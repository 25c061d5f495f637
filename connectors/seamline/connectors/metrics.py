"""Every Prometheus series of Seamline, in one place.

Decides: names, labels and buckets. Invariants: no label carries a symbol, an offset or a rule; a
counter whose increase alerts exists at 0 before its first event (`increase()` does not see the
first increment of a new series); the series of a partition that was revoked are gone; buckets
cover the budgets they alert on (300 s). Must not know: who counts, and why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from threading import Lock
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from seamline.schemas.errors import UsageError

HOST_VARIABLE: Final = "SEAMLINE_METRICS_HOST"
ROW_KINDS: Final = (
    *("inserted", "confirmed", "raised", "completed", "revised", "discarded", "conflicts", "late"),
    *("equal", "out_of_order", "previews", "heartbeats", "invalid_outages"),
)
LANDING: Final = ("live", "backfill")
OWNER_STATES: Final = ("taking", "restarting", "running", "waiting")
TROUBLES: Final = ("broken", "failed", "fenced")
FATES: Final = ("abort", "commit")
COMMIT_BUCKETS: Final = (
    *(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0),
)


class Metrics:
    """The series of one process. Its methods may be called from any thread and never block."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        if registry is None:
            ProcessCollector(registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=self.registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, registry=self.registry)

        self.validation_failures = _failures_counter(self.registry)
        self._make_budget_series(counter)
        self.records_in = counter(
            "seamline_worker_records_in_total", "Landed records read", "preset", "topic"
        )
        self.rows = counter(
            "seamline_worker_rows_total", "Rows, by what became of them", "preset", "kind"
        )
        self.quarantined = counter(
            "seamline_worker_quarantined_total", "Records put in quarantine", "preset", "reason"
        )
        self.expired = counter(
            "seamline_worker_expired_offsets_total",
            "Offsets of a landing topic that expired before they were read",
            *("preset", "topic"),
        )
        self.seals = counter("seamline_worker_seals_total", "Seals written", "preset")
        self.transactions = counter(
            "seamline_worker_transactions_total", "Transactions committed", "preset"
        )
        self.commit_seconds = Histogram(
            "seamline_worker_commit_seconds",
            "Time of one commit",
            ("preset",),
            buckets=COMMIT_BUCKETS,
            registry=self.registry,
        )
        self.takes = counter(
            "seamline_worker_takes_total", "Partitions taken, the first time or again", "preset"
        )
        self.troubles = counter(
            "seamline_worker_troubles_total",
            "Ends of a run: a broken chain, a failure, a fence by another owner",
            *("preset", "kind"),
        )
        self.completed_open = counter(
            "seamline_worker_completed_open_total",
            "Transactions that a killed broker left open and the next owner completed",
            *("preset", "fate"),
        )
        self.lag = gauge(
            "seamline_worker_lag_rows",
            "Landed offsets that no committed position covers",
            *("preset", "topic", "partition"),
        )
        self.staleness = gauge(
            "seamline_worker_frontier_staleness_seconds",
            "Age of the oldest frontier of the partition",
            *("preset", "partition"),
        )
        self.owner_state = gauge(
            "seamline_worker_owner_state",
            "1 for the state an owner is in, 0 for the others",
            *("preset", "partition", "state"),
        )

    def _make_budget_series(self, counter: Callable[..., Counter]) -> None:
        self.budget_demotions = counter(
            "seamline_schema_budget_demotions_total",
            "Times that this worker took a subject back to canary because its budget was spent",
            "subject",
        )
        self.budget_demotion_failures = counter(
            "seamline_schema_budget_demotion_failures_total",
            "Attempts of this worker to do so that failed; strict went on blocking",
            "subject",
        )

    def create(
        self, preset_id: str, topics: Iterable[str], failures: Iterable[tuple[str, str]]
    ) -> None:
        """Make the series of a preset at 0. `topics`: roles; `failures`: (subject, mode)."""
        for subject, mode in failures:
            self.validation_failures.labels(subject, mode)
            self.budget_demotions.labels(subject)
            self.budget_demotion_failures.labels(subject)
        for topic in topics:
            self.records_in.labels(preset_id, topic)
            self.expired.labels(preset_id, topic)
        for kind in ROW_KINDS:
            self.rows.labels(preset_id, kind)
        for kind in TROUBLES:
            self.troubles.labels(preset_id, kind)
        for fate in FATES:
            self.completed_open.labels(preset_id, fate)
        # Of all reasons the one that means a fault of this program.
        self.quarantined.labels(preset_id, "poisoned")
        for counter in (self.seals, self.transactions, self.takes, self.commit_seconds):
            counter.labels(preset_id)

    def committed(
        self,
        preset_id: str,
        *,
        commit_s: float,
        counts: Mapping[str, int],
        quarantined: Mapping[str, int],
        failures: Mapping[tuple[str, str], int],
        seals: int,
    ) -> None:
        """One transaction is committed, with this in it."""
        self.transactions.labels(preset_id).inc()
        self.commit_seconds.labels(preset_id).observe(commit_s)
        for kind, count in counts.items():
            self.rows.labels(preset_id, kind).inc(count)
        for reason, count in quarantined.items():
            self.quarantined.labels(preset_id, reason).inc(count)
        for (subject, mode), count in failures.items():
            self.validation_failures.labels(subject, mode).inc(count)
        if seals:
            self.seals.labels(preset_id).inc(seals)

    def budget_demoted(self, subject: str) -> None:
        self.budget_demotions.labels(subject).inc()

    def budget_demotion_failed(self, subject: str) -> None:
        self.budget_demotion_failures.labels(subject).inc()

    def entered(self, preset_id: str, partition: int, state: str) -> None:
        """An owner is in `state` now; a state outside OWNER_STATES removes its series."""
        if state not in OWNER_STATES:
            self.remove(preset_id, partition)
            return
        for name in OWNER_STATES:
            self.owner_state.labels(preset_id, str(partition), name).set(name == state)

    def remove(
        self, preset_id: str, partition: int, topics: Iterable[str] = ("live", "backfill")
    ) -> None:
        """The partition is somebody else's: no series of ours may go on saying how it is."""
        where = (preset_id, str(partition))
        for name in OWNER_STATES:
            self.owner_state.remove(*where, name)
        self.staleness.remove(*where)
        for topic in LANDING:
            self.lag.remove(preset_id, topic, str(partition))


class ValidationFailures:
    """`seamless_schema_validation_failures_total` of a process that is no worker: an SDK producer
    or reader. Those that share a registry share the series. May be used by any thread."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        with _FAILURES_LOCK:
            if self.registry not in _FAILURES:
                _FAILURES[self.registry] = _failures_counter(self.registry)
            self._counter = _FAILURES[self.registry]

    def create(self, subjects: Iterable[str], modes: Iterable[str]) -> None:
        """Make the series of every (subject, mode) at 0."""
        for subject, mode in product(subjects, modes):
            self._counter.labels(subject, mode)

    def add(self, subject: str, mode: str, count: int) -> None:
        """So many records failed a check."""
        self._counter.labels(subject, mode).inc(count)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(subject, mode) -> records that failed."""
        return {
            (sample.labels["subject"], sample.labels["mode"]): int(sample.value)
            for metric in self._counter.collect()
            for sample in metric.samples
        }


def _failures_counter(registry: CollectorRegistry) -> Counter:
    return Counter(
        "seamless_schema_validation_failures_total",
        "Records that failed a schema check, by subject and mode of the subject",
        ("subject", "mode"),
        registry=registry,
    )


_FAILURES: Final[WeakKeyDictionary[CollectorRegistry, Counter]] = WeakKeyDictionary()
_FAILURES_LOCK: Final = Lock()


class LiveMetrics:
    """The series of one live connector, read from its own counters when they are scraped.

    `counters` and `gauges` give values by name; they are called from the server's thread.
    """

    def __init__(
        self,
        preset_id: str,
        counters: Callable[[], Mapping[str, int]],
        gauges: Callable[[], Mapping[str, int]],
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._preset_id = preset_id
        self._counters = counters
        self._gauges = gauges
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        for name, value in sorted(self._counters().items()):
            counter = CounterMetricFamily(
                f"seamline_live_{name}", name.replace("_", " "), labels=("preset",)
            )
            counter.add_metric((self._preset_id,), value)
            yield counter
        for name, value in sorted(self._gauges().items()):
            seconds = name.endswith("_ns")
            gauge = GaugeMetricFamily(
                f"seamline_live_{name.removesuffix('_ns')}{'_seconds' if seconds else ''}",
                name.removesuffix("_ns").replace("_", " "),
                labels=("preset",),
            )
            gauge.add_metric((self._preset_id,), value / 1e9 if seconds else value)
            yield gauge


def serve(
    metrics: Metrics | LiveMetrics | ValidationFailures, port: int, host: str | None = None
) -> int:
    """Answer scrapes on `host:port` from a thread of its own; the port (0 takes a free one).

    `host` is `SEAMLINE_METRICS_HOST` if not given, else this machine only. Raises UsageError when
    the port is taken or not allowed.
    """
    host = host or os.environ.get(HOST_VARIABLE) or "127.0.0.1"
    try:
        server, _ = start_http_server(port, host, registry=metrics.registry)
    except OSError as error:
        raise UsageError(
            f"cannot listen there: {error.strerror}",
            parameter="metrics_port",
            value=port,
            fix="Give a free port, or 0 for any",
        ) from None
    return int(server.server_port)
