"""Certificates as files, and their check against Kafka alone.

Decides: what is read to check one: storage and seals now, the log between the certificate's offsets
and after them, `superseded` only when something differs. Invariants: nothing of the certificate is
believed but what its digests prove; a file whose own hash does not fit is refused before Kafka is
asked. Must not know: how a difference is judged (`streams.kernel.seam_proof`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.sdk.seam_snapshot import AGAIN_S, SETTLE_S, SnapshotReader, unsettled_error
from seamline.sdk.seam_source import SeamSource
from seamline.sdk.stitching import request_of
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_proof import UNEXPLAINED, Now, Verdict, recheck

CERTIFICATE_BYTES_MAX: Final = 512 * 2**20
Rows = dict[str, list[ConformedColumns]]


def load(path: Path) -> Certificate:
    """Raises UsageError for a file that is none, ContractError for one that was changed."""
    try:
        if path.stat().st_size > CERTIFICATE_BYTES_MAX:
            raise UsageError(
                "too large for a certificate", parameter="certificate", value=str(path)
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot be read: {error}", parameter="certificate", value=str(path)
        ) from None
    return Certificate.from_json(text)


def save(certificate: Certificate, path: Path) -> None:
    """Raises UsageError when the file cannot be written."""
    try:
        path.write_text(certificate.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error}", parameter="certificate", value=str(path)
        ) from None


def verify(
    certificate: Certificate, *, world: World, presets: Mapping[str, Preset]
) -> tuple[Verdict, dict[str, Any]]:
    """Recompute a certificate from Kafka: the verdict, and the same as plain JSON.

    Raises UsageError for a preset that is not known or not the certificate's, ContractError when
    storage is not what its seals say, TransportError when Kafka fails.
    """
    facts = certificate.facts
    preset = loader.get(presets, facts["preset"])
    if preset.interval_ns != facts["interval_ms"] * NS_PER_MS:
        raise UsageError(
            "the preset has another interval than the certificate",
            parameter="preset",
            value=preset.id,
            fix="Use the presets file of the time of the certificate",
        )
    names = [entry["symbol"] for entry in certificate.symbols]
    source = SeamSource(world.cluster, preset, names)
    stated = {entry["symbol"]: entry["partition"] for entry in certificate.symbols}
    if stated != source.symbols:
        raise ContractError(
            "the certificate names other partitions than the preset gives its symbols",
            parameter="partition",
            value=stated,
            fix="The number of partitions was changed; the old log cannot be compared",
        )
    absent = [p for p in source.partitions if str(p) not in facts["positions"]]
    if absent:
        raise UsageError(
            "the certificate does not say where it read the log",
            parameter="positions",
            value=absent,
            fix="Give the file that `seamline read --certificate` wrote, unchanged",
        )
    source.check_topics()
    verdict = _recheck(certificate, source)
    return verdict, {
        "status": verdict.status,
        "preset": preset.id,
        "symbols": names,
        "blocks_checked": verdict.blocks_checked,
        "log_bars_checked": verdict.log_bars_checked,
        "changes": [change.fields() for change in verdict.changes],
        "reasons": list(verdict.reasons),
        "certificate": certificate.sha256,
    }


def _recheck(certificate: Certificate, source: SeamSource) -> Verdict:
    facts = certificate.facts
    request = request_of(
        source.preset, list(source.symbols), facts["start"], facts["end"], on_gap="flag", now_ns=0
    )
    reader = SnapshotReader(source, request, lambda: None)
    deadline = time.monotonic() + SETTLE_S
    while unsettled := reader.advance():
        if time.monotonic() >= deadline:
            raise unsettled_error(request.preset_id, unsettled)
        time.sleep(AGAIN_S)
    log, later, retained = _logs(certificate, source)
    now = {
        symbol: Now(
            settled=reader.snapshot.settle(symbol),
            log=ConformedColumns.concat(log[symbol]),
            later=ConformedColumns.concat(later[symbol]),
            retained=retained[partition],
            superseded=ConformedColumns.empty(0),
        )
        for symbol, partition in source.symbols.items()
    }
    verdict = recheck(certificate, now)
    if verdict.status != UNEXPLAINED:
        return verdict
    old = _rows(source, "superseded", source.begins("superseded"), source.fences("superseded"))
    return recheck(
        certificate,
        {
            symbol: Now(
                present.settled,
                present.log,
                present.later,
                present.retained,
                ConformedColumns.concat(old[symbol]),
            )
            for symbol, present in now.items()
        },
    )


def _logs(certificate: Certificate, source: SeamSource) -> tuple[Rows, Rows, dict[int, bool]]:
    """Rows up to the certificate's fence, rows after it, and whether the first are all there."""
    positions = certificate.facts["positions"]
    starts = {p: int(positions[str(p)]["conformed"]["from"]) for p in source.partitions}
    fences = {p: int(positions[str(p)]["conformed"]["fence"]) for p in source.partitions}
    ends = source.fences("conformed")
    behind = [p for p in source.partitions if ends[p] < fences[p]]
    if behind:
        raise TransportError(
            "the log is shorter than it was when the certificate was made",
            parameter="positions",
            value=behind,
            fix="This is another cluster, or its topics were made anew",
            retriable=False,
        )
    begins = source.begins("conformed")
    retained = {p: begins[p] <= starts[p] or starts[p] >= fences[p] for p in source.partitions}
    first = {p: min(max(starts[p], begins[p]), fences[p]) for p in source.partitions}
    second = {p: min(max(fences[p], begins[p]), ends[p]) for p in source.partitions}
    return (
        _rows(source, "conformed", first, fences),
        _rows(source, "conformed", second, ends),
        retained,
    )


def _rows(
    source: SeamSource, role: str, starts: Mapping[int, int], fences: Mapping[int, int]
) -> Rows:
    rows: Rows = {symbol: [] for symbol in source.symbols}
    for messages in source.read(role, starts, fences):
        for symbol, columns in source.rows(messages, role):
            rows[symbol].append(columns)
    return rows
