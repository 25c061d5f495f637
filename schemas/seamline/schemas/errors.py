"""The exceptions of Seamline: whose fault it is, and whether trying again helps.

Decides: the three kinds of fault. `UsageError`: an argument or a setting is wrong. `ContractError`:
the data cannot meet what was required. `TransportError`: another system is unreachable or failing.
Bad data on its way through the plane is a value (a finding, a quarantined record), never an
exception.

Invariant: a message names the field, the value and the fix, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALUE_SHOWN_MAX = 200


class SeamlineError(Exception):
    """Base of all errors that Seamline raises on purpose.

    `parameter` is the exact name of the argument, field or setting at fault, `fix` says what to do,
    `retriable` whether the same call can succeed later, `fields` holds data for programs.
    """

    retriable = False

    def __init__(
        self,
        message: str,
        *,
        parameter: str | None = None,
        value: object = None,
        fix: str | None = None,
        retriable: bool | None = None,
        **fields: Any,
    ) -> None:
        self.message = message
        self.parameter = parameter
        self.value = value
        self.fix = fix
        self.fields: Mapping[str, Any] = fields
        if retriable is not None:
            self.retriable = retriable
        super().__init__(self._text())

    def _text(self) -> str:
        head = self.message
        if self.parameter is not None:
            shown = repr(self.value)
            if len(shown) > VALUE_SHOWN_MAX:
                shown = shown[:VALUE_SHOWN_MAX] + "…"
            head = f"{self.parameter} = {shown}: {head}"
        return head if self.fix is None else f"{head}. {self.fix}"


class UsageError(SeamlineError):
    """An argument or a setting is wrong; the caller mends it."""


class ContractError(SeamlineError):
    """The data cannot meet what was required of it; nothing partial was returned."""


class ConformancePipelineError(ContractError):
    """The conformance of a frame blocked it, or could not be judged at all; no row was returned.

    `fields`: `report` (the ConformanceReport of the run, None where a rule crashed; then
    `__cause__` is what it raised), `blocked` (the rules that block), `counts` (rule -> count),
    `rows_returned` (0).
    """


class SchemaValidationError(ContractError):
    """A record or a schema breaks the contract of its subject, and the subject is strict.

    `subject`; `field`: dotted path of the field, None where the whole record or schema is meant;
    `rule`: the rule that it breaks (of a schema: `incompatible_schema`); `writer_schema` and
    `reader_schema`: version or fingerprint of what wrote and of what was to read, None where
    unknown. For a schema `report` is its CompatibilityReport.
    """

    def __init__(
        self,
        message: str,
        *,
        subject: str,
        rule: str,
        field: str | None = None,
        value: object = None,
        writer_schema: str | None = None,
        reader_schema: str | None = None,
        report: object = None,
        fix: str | None = None,
        **fields: Any,
    ) -> None:
        self.subject = subject
        self.field = field
        self.rule = rule
        self.writer_schema = writer_schema
        self.reader_schema = reader_schema
        self.report = report
        super().__init__(
            f"{message} ({self._where()})",
            parameter=field or subject,
            value=value,
            fix=fix,
            **fields,
        )

    def _where(self) -> str:
        told = [f"subject {self.subject}", f"rule {self.rule}"]
        if self.writer_schema is not None:
            told.append(f"written as {self.writer_schema}")
        if self.reader_schema is not None:
            told.append(f"read as {self.reader_schema}")
        return ", ".join(told)


class TransportError(SeamlineError):
    """Another system (broker, registry, venue) is unreachable or failing."""

    retriable = True
