"""How a test vector is evaluated: what a driver gets, what it gives back, when that is equal.

Decides: that every field of `given` and `when` is read and every field of `expect` is observed, or
the vector fails; that numbers are compared within 1e-9 unless both are integers; that a vector
whose `applies_if` does not hold is neither passed nor failed. Must not know: any family.

A driver is a function `(Case) -> observation`. It is registered with `@driver(group, family)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from seamline.schemas.errors import SeamlineError

TOLERANCE = 1e-9
FORMAT = 1
_VECTOR_KEYS = {"id", "family", "title", "given", "when", "expect", "why", "applies_if"}


class UnknownFieldError(AssertionError):
    """A vector names a field that its driver does not know: it must fail, not skip."""


class Fields(Mapping[str, Any]):
    """The fields of one object of a vector, which remember what was read of them."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def require_read(self) -> None:
        unread = sorted(self._values.keys() - self._read)
        if unread:
            raise UnknownFieldError(f"the driver does not know {self._where}: {', '.join(unread)}")


@dataclass(frozen=True, slots=True)
class Case:
    """One vector as its driver sees it: `given`, and `when` as a list of calls in order; and, of
    what is expected, the unit in which it states its times."""

    id: str
    given: Fields
    calls: tuple[Fields, ...]
    times_in: str | None = None

    @property
    def call(self) -> Fields:
        """The only call of `when`."""
        (only,) = self.calls
        return only


@dataclass(frozen=True, slots=True)
class Accepts:
    """An observation that more than one expected value fits, by a rule of the conventions."""

    rule: Callable[[Any], bool]
    shown: object = field(default=None)


Driver = Callable[[Case], Mapping[str, Any]]
DRIVERS: dict[tuple[str, str], Driver] = {}
# What `applies_if` says, in the words of the vectors, and whether we are built so. A text that is
# not here fails: someone has to decide it.
CONDITIONS: dict[str, bool] = {}


def driver(group: str, family: str) -> Callable[[Driver], Driver]:
    def register(function: Driver) -> Driver:
        assert (group, family) not in DRIVERS, f"two drivers for {group}/{family}"
        DRIVERS[group, family] = function
        return function

    return register


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    id: str
    verdict: Verdict
    reason: str = ""


def load(path: Path) -> dict[str, Any]:
    """A file of vectors. Raises AssertionError where it is not of the format."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict) and document.get("format") == FORMAT, f"{path}: other format"
    assert isinstance(document["vectors"], list), f"{path}: no list of vectors"
    return document


def evaluate(group: str, vector: Mapping[str, Any]) -> Outcome:
    """Run one vector with its driver. Every fault of the vector or the driver is a failure."""
    name = str(vector.get("id"))
    applies_if = vector.get("applies_if")
    if applies_if is not None:
        if applies_if not in CONDITIONS:
            return Outcome(name, Verdict.FAILED, f"undecided condition: {applies_if}")
        if not CONDITIONS[applies_if]:
            return Outcome(name, Verdict.SKIPPED, applies_if)
    found = DRIVERS.get((group, vector["family"]))
    if found is None:
        return Outcome(name, Verdict.FAILED, f"no driver for family {vector['family']}")
    try:
        differences = _differences(found, vector)
    except Exception as fault:
        return Outcome(name, Verdict.FAILED, f"{type(fault).__name__}: {fault}")
    if differences:
        return Outcome(name, Verdict.FAILED, "; ".join(differences))
    return Outcome(name, Verdict.PASSED)


def _differences(found: Driver, vector: Mapping[str, Any]) -> list[str]:
    unknown = vector.keys() - _VECTOR_KEYS
    if unknown:
        raise UnknownFieldError(f"unknown parts of a vector: {', '.join(sorted(unknown))}")
    when = vector.get("when", {})
    calls = when if isinstance(when, list) else [when]
    case = Case(
        str(vector["id"]),
        Fields(vector["given"], "given"),
        tuple(Fields(call, f"when[{i}]") for i, call in enumerate(calls)),
        vector["expect"].get("ts_unit"),
    )
    observed = found(case)
    for fields in (case.given, *case.calls):
        fields.require_read()
    return list(compare(vector["expect"], observed))


def compare(expect: Mapping[str, Any], observed: Mapping[str, Any]) -> Iterator[str]:
    """What differs, field by field. Raises UnknownFieldError for a field nobody observed."""
    for key, wanted in expect.items():
        if key not in observed:
            raise UnknownFieldError(f"the driver does not observe expect.{key}")
        got = observed[key]
        if isinstance(got, Accepts):
            if not got.rule(wanted):
                yield f"{key}: expected {wanted!r}, observed {got.shown!r}"
        elif not same(wanted, got):
            yield f"{key}: expected {wanted!r}, observed {got!r}"


def same(wanted: Any, got: Any) -> bool:
    """Integers, texts and truth exactly; other numbers within 1e-9; containers by their items."""
    if isinstance(wanted, bool) or isinstance(got, bool) or wanted is None or got is None:
        return wanted is got
    if isinstance(wanted, int) and isinstance(got, int):
        return wanted == got
    if isinstance(wanted, int | float) and isinstance(got, int | float):
        return math.isclose(wanted, got, rel_tol=0.0, abs_tol=TOLERANCE)
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return wanted.keys() == got.keys() and all(same(v, got[k]) for k, v in wanted.items())
    if isinstance(wanted, str) or isinstance(got, str):
        return isinstance(got, str) and wanted == got
    if isinstance(wanted, Sequence) and isinstance(got, Sequence):
        return len(wanted) == len(got) and all(map(same, wanted, got))
    return False


def outcome_of(call: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The observation of a call that may raise: its result with `raises: null`, or the error as
    fields (`raises` by kind, subclasses count; `names_parameter`, `retriable`, the error's own)."""
    try:
        return {"raises": None, **call()}
    except SeamlineError as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {
            **error.fields,
            "raises": Accepts(lambda wanted: wanted in kinds, kinds[0]),
            "names_parameter": error.parameter,
            "retriable": error.retriable,
        }
