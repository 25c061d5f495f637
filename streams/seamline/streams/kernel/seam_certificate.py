"""The certificate: the evidence of one seam as a value that can be kept, shown and checked.

Decides: the form of a certificate and of its own hash. Invariants: the facts are plain JSON (times
are ISO texts, digests hex); SHA-256 covers all facts in canonical form, so a changed file is
refused. Must not know: how the facts came about, how they are checked again, files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.errors import ContractError, UsageError
from seamline.streams.kernel.certificate_shape import fault_of

VERSION: Final = 1
_FIX: Final = "Give the file that `seamline read --certificate` wrote, unchanged"


@dataclass(frozen=True, slots=True)
class Certificate:
    """`facts` is the evidence without its hash; `sha256` is 64 hex digits over it."""

    facts: Mapping[str, Any]
    sha256: str

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Certificate:
        return cls(facts, _hash(facts))

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Raises UsageError when it is no certificate, ContractError when its hash does not fit."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError("not JSON", parameter="certificate", fix=_FIX) from None
        if not isinstance(tree, dict) or "sha256" not in tree or "certificate" not in tree:
            raise UsageError("not a certificate", parameter="certificate", fix=_FIX)
        if type(tree["certificate"]) is not int or tree["certificate"] != VERSION:
            raise UsageError(
                "a certificate of another version",
                parameter="certificate",
                value=tree["certificate"],
                fix=f"This program checks version {VERSION}",
            )
        stated = tree.pop("sha256")
        try:
            computed = _hash(tree)
        except RecursionError:
            raise UsageError("nested too deeply", parameter="certificate", fix=_FIX) from None
        if stated != computed:
            raise ContractError(
                "the certificate was changed after it was made: its hash does not fit",
                parameter="sha256",
                value=stated,
                fix=_FIX,
                computed=computed,
            )
        wrong = fault_of(tree)
        if wrong is not None:
            raise UsageError(
                "not a certificate of this program: a field is missing or of another type",
                parameter=wrong,
                fix=_FIX,
            )
        return cls(tree, stated)

    def as_dict(self) -> dict[str, Any]:
        return {**self.facts, "sha256": self.sha256}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    @property
    def symbols(self) -> list[Mapping[str, Any]]:
        """Evidence of each symbol."""
        return list(self.facts["symbols"])

    @property
    def bars_history(self) -> int:
        return int(self.facts["bars_history"])

    @property
    def bars_log(self) -> int:
        return int(self.facts["bars_log"])

    @property
    def missing_bars(self) -> int:
        """Expected bars that the gap ledger names as missing."""
        return int(self.facts["missing_bars"])

    @property
    def gaps(self) -> int:
        """Expected bars below the frontier that are missing without a ledger entry."""
        return int(self.facts["missing_without_entry"])

    @property
    def duplicates(self) -> int:
        return int(self.facts["duplicates"])

    @property
    def contiguous(self) -> bool:
        """Every expected bar was delivered once, or the ledger says why it is not there."""
        return self.gaps == 0 and self.duplicates == 0

    def summary(self) -> str:
        """Some lines for people."""
        facts = self.facts
        head = (
            f"{facts['preset']}: {self.bars_history} bars from storage + {self.bars_log} from the "
            f"log = {self.bars_history + self.bars_log}, from {facts['start']}"
        )
        lines = [head]
        for entry in self.symbols:
            lines.append(_symbol_line(entry))
        verdict = "contiguous" if self.contiguous else "NOT contiguous"
        lines.append(
            f"{verdict}: {self.missing_bars} bars named missing by the gap ledger, {self.gaps} "
            f"without an entry, {self.duplicates} duplicates"
        )
        lines.append(f"digest {facts['digest']}")
        lines.append(f"certificate sha256 {self.sha256}")
        return "\n".join(lines)


def _symbol_line(entry: Mapping[str, Any]) -> str:
    overlap, gaps = entry["overlap"], entry["gaps"]
    seam = (
        "never sealed"
        if entry["frontier"] is None
        else f"seam at {entry['frontier']} (seal {entry['seal_sequence']}, "
        f"log offset {entry['conformed_offset']})"
    )
    if overlap["empty"]:
        compared = "overlap empty"
    else:
        compared = f"overlap {overlap['equal']} of {overlap['compared']} equal"
        for name in ("completed", "newer_in_storage"):
            if overlap[name]:
                compared += f", {overlap[name]} {name.replace('_', ' ')}"
    line = (
        f"  {entry['symbol']}: {entry['history']['bars']} + {entry['log']['bars']} bars, {seam}, "
        f"{compared}"
    )
    if gaps:
        line += f", {len(gaps)} gaps of {sum(gap['bars'] for gap in gaps)} bars"
    if entry["open"]:
        line += f", {sum(gap['bars'] for gap in entry['open'])} bars awaited above the seam"
    return line


def _hash(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
