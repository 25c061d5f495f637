"""Series exist before their first event, name no symbol, and go with their partition."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import generate_latest

from seamline.connectors.metrics import Metrics, serve
from seamline.schemas.errors import UsageError

FAILURES = [("seamline.p.live-value", "canary"), ("seamline.p.live-value", "strict")]


def made() -> Metrics:
    metrics = Metrics()
    metrics.create("p", ("live", "backfill"), FAILURES)
    return metrics


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_validation_failures_exist_at_zero_for_every_subject_and_mode() -> None:
    shown = text(made())
    for subject, mode in FAILURES:
        labels = f'{{mode="{mode}",subject="{subject}"}}'
        assert f"seamless_schema_validation_failures_total{labels} 0.0" in shown


def test_demotions_by_the_budget_exist_at_zero_and_are_counted() -> None:
    metrics = made()
    subject = FAILURES[0][0]
    for name in ("demotions", "demotion_failures"):
        series = f'seamline_schema_budget_{name}_total{{subject="{subject}"}}'
        assert f"{series} 0.0" in text(metrics)
    metrics.budget_demoted(subject)
    metrics.budget_demotion_failed(subject)
    metrics.budget_demotion_failed(subject)
    shown = text(metrics)
    assert f'budget_demotions_total{{subject="{subject}"}} 1.0' in shown
    assert f'budget_demotion_failures_total{{subject="{subject}"}} 2.0' in shown


def test_a_commit_counts_what_was_in_it() -> None:
    metrics = made()
    metrics.committed(
        "p",
        commit_s=0.03,
        counts={"inserted": 7, "revised": 2},
        quarantined={"wrong_partition": 3},
        failures={FAILURES[0]: 4},
        seals=1,
    )
    shown = text(metrics)
    assert 'seamline_worker_rows_total{kind="inserted",preset="p"} 7.0' in shown
    assert 'seamline_worker_quarantined_total{preset="p",reason="wrong_partition"} 3.0' in shown
    assert 'seamline_worker_commit_seconds_bucket{le="0.05",preset="p"} 1.0' in shown
    assert 'seamline_worker_seals_total{preset="p"} 1.0' in shown
    assert 'failures_total{mode="canary",subject="seamline.p.live-value"} 4.0' in shown


def test_commit_buckets_cover_the_budget_they_alert_on() -> None:
    assert 'seamline_worker_commit_seconds_bucket{le="300.0",preset="p"}' in text(made())


def test_an_owner_is_in_one_state_and_a_revoked_partition_in_none() -> None:
    metrics = made()
    metrics.entered("p", 3, "running")
    metrics.lag.labels("p", "live", "3").set(9)
    metrics.staleness.labels("p", "3").set(1)
    shown = text(metrics)
    assert 'owner_state{partition="3",preset="p",state="running"} 1.0' in shown
    assert 'owner_state{partition="3",preset="p",state="waiting"} 0.0' in shown
    metrics.entered("p", 3, "closed")
    assert 'partition="3"' not in text(metrics)
    metrics.remove("p", 3)  # once more does no harm


def test_it_is_served_on_a_free_port_and_a_taken_one_is_refused() -> None:
    metrics = made()
    port = serve(metrics, 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"seamline_worker_transactions_total" in answer.read()
    with pytest.raises(UsageError, match="metrics_port"):
        serve(metrics, port)
