"""Drivers of `governance.json`: registration in canary and strict (`register`, `canary`, `strict`).

A registry is the client's own `mock://`: it has ids that count from 1, and refuses nothing by
itself. It is told its next id by what is registered under another subject before.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from seamline.connectors.metrics import Metrics
from seamline.connectors.registry.client import (
    Registered,
    RemoteSchemaRegistryClient,
    SchemaRegistryClient,
)
from seamline.connectors.registry.governed import judge, register
from seamline.schemas.compatibility import CompatibilityReport
from seamline.schemas.contract import fingerprint_of_text
from seamline.schemas.errors import SchemaValidationError
from seamline.schemas.modes import MODES
from vectors.engine import CONDITIONS, Accepts, Case, driver

CONDITIONS["the registry under test can be told its next id"] = True
SUBJECT = "s"
COUNTER = "seamless_schema_validation_failures_total"
_REGISTRIES = itertools.count(1)


@contextmanager
def mock_registry(next_id: int = 1) -> Iterator[tuple[SchemaRegistryClient, str]]:
    """A client, and what its subjects begin with there."""
    client = RemoteSchemaRegistryClient(f"mock://{next(_REGISTRIES)}", unit_test=True)
    for number in range(1, next_id):
        filler = {"type": "record", "name": f"Filler{number}", "fields": []}
        client.register("filler", json.dumps(filler))
    try:
        yield client, ""
    finally:
        client.close()


class Registering:
    """Schemas in order under one subject, and what became of each."""

    def __init__(
        self, client: SchemaRegistryClient, metrics: Metrics, subject: str, mode: str, level: str
    ) -> None:
        self._client = client
        self._metrics = metrics
        self.subject = subject
        self.mode = mode
        self._level = level
        self.registered: list[Registered] = []
        self.raised: list[SchemaValidationError | None] = []
        self.report: CompatibilityReport | None = None
        for each in MODES:
            metrics.validation_failures.labels(subject, each)

    def run(self, schemas: Sequence[Any]) -> None:
        for schema in schemas:
            judged = judge(
                self._client, self.subject, json.dumps(schema), mode=self.mode, level=self._level
            )
            self.report = judged.report
            try:
                self.registered.append(register(self._client, judged, self._count))
                self.raised.append(None)
            except SchemaValidationError as error:
                assert error.report == judged.report
                self.raised.append(error)

    def _count(self, subject: str, mode: str) -> None:
        self._metrics.validation_failures.labels(subject, mode).inc()

    def failures(self, mode: str) -> int:
        value = self._metrics.registry.get_sample_value(
            COUNTER, {"subject": self.subject, "mode": mode}
        )
        assert value is not None, f"no series of {self.subject} in {mode}"
        return int(value)

    def observed(self) -> Mapping[str, Any]:
        report, last = self.report, self.raised[-1]
        assert report is not None
        latest = self._client.latest(self.subject)
        labels = {"subject": self.subject, "mode": self.mode}
        counted = self.failures(self.mode)
        ids = [one.id for one in self.registered]
        versions = [one.version for one in self.registered]
        return {
            "raises": Accepts(
                lambda wanted: last is not None and wanted in _kinds(last), repr(last)
            ),
            "raises_each": [error and type(error).__name__ for error in self.raised],
            "report": Accepts(lambda wanted: last is not None and _reports(last, wanted), report),
            "versions": versions,
            "ids": ids,
            "ids_equal": len(set(ids)) == 1,
            "id_above": Accepts(lambda below: all(i > below for i in ids), ids),
            "latest_is_last": latest is not None
            and (latest.version, latest.id) == (versions[-1], ids[-1])
            and fingerprint_of_text(latest.text) == fingerprint_of_text(self.registered[-1].text),
            "latest_version": latest and latest.version,
            "schema_count": len(self._client.history(self.subject)),
            "by_id_round_trip": all(
                fingerprint_of_text(self._client.by_id(one.id)) == fingerprint_of_text(one.text)
                for one in self.registered
            ),
            "compatible": report.compatible,
            "added": list(report.added),
            "removed": list(report.removed),
            "breaking": list(report.breaking),
            "accepted": last is None,
            "failure_counter_added": counted,
            "counter_labels": Accepts(
                lambda wanted: counted > 0 and wanted.items() <= labels.items(), labels
            ),
        }


def _kinds(error: SchemaValidationError) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _reports(error: SchemaValidationError, wanted: Mapping[str, Any]) -> bool:
    report = error.report
    assert isinstance(report, CompatibilityReport)
    told = report.to_json()
    ends = wanted.get("breaking_path_ends_with")
    rest = {key: value for key, value in wanted.items() if key != "breaking_path_ends_with"}
    return rest.items() <= told.items() and (
        ends is None or any(path.endswith(ends) for path in report.breaking)
    )


# Another test may put a real registry here.
open_registry = mock_registry


def registration(case: Case) -> Mapping[str, Any]:
    given = case.given
    name = case.call["call"]
    with open_registry(given.get("registry_next_id", 1)) as (client, start):
        if name == "latest":
            return {"result": client.latest(start + given["subject"])}
        assert name == "register_in_order", f"unknown call {name}"
        metrics, mode, level = Metrics(), given["mode"], given["compatibility"]
        if "register" in given:
            one = Registering(client, metrics, start + SUBJECT, mode, level)
            one.run(given["register"])
            return one.observed()
        several = [
            Registering(client, metrics, start + subject, mode, level)
            for subject in given["register_by_subject"]
        ]
        for each in several:
            each.run(given["register_by_subject"][each.subject.removeprefix(start)])
        observed = {each.subject.removeprefix(start): each.observed() for each in several}
        fields = ("versions", "ids", "compatible", "added", "removed", "breaking", "accepted")
        return {
            field: {subject: seen[field] for subject, seen in observed.items()} for field in fields
        } | {
            "failure_counter": {
                each.subject.removeprefix(start): each.failures(mode) for each in several
            }
        }


for _family in ("register", "canary", "strict"):
    driver("governance", _family)(registration)
