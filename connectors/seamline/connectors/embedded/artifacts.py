"""Which files the embedded stack is made of, and what their bytes must be.

Decides: the meaning of `artifacts.lock.json`: Maven coordinates, each with the SHA-256 and the size
of the file. Invariants: a stack runs nothing whose digest is not in the lock; the lock names no
address. Must not know: where files come from or where they are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from seamline.schemas.errors import ContractError

LOCK_NAME = "artifacts.lock.json"
LOCK_FORMAT = 1
BROKER_NAME = "kafka_2.13"
COORDINATE = re.compile(r"[A-Za-z0-9_.\-]+(:[A-Za-z0-9_.\-]+){2}(:[a-z.]+:[a-z]+)?")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file: `group:name:version[:packaging:classifier]`, SHA-256 (hex) and size in bytes."""

    group: str
    name: str
    version: str
    packaging: str
    classifier: str
    sha256: str
    size: int

    @property
    def coordinates(self) -> str:
        tail = f":{self.packaging}:{self.classifier}" if self.classifier else ""
        return f"{self.group}:{self.name}:{self.version}{tail}"

    @property
    def filename(self) -> str:
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{classifier}.{self.packaging}"

    @property
    def relative_path(self) -> PurePosixPath:
        """Its place in a repository of Maven's layout."""
        return PurePosixPath(*self.group.split("."), self.name, self.version, self.filename)


@dataclass(frozen=True, slots=True)
class Lock:
    """Every file of the stack: the broker's class path in order, and the registry's archive."""

    kafka: tuple[Artifact, ...]
    registry: Artifact

    @property
    def versions(self) -> dict[str, str]:
        broker = next(a.version for a in self.kafka if a.name == BROKER_NAME)
        return {"kafka": broker, "registry": self.registry.version}

    @property
    def size(self) -> int:
        """Bytes of everything."""
        return sum(a.size for a in (*self.kafka, self.registry))


def load_lock() -> Lock:
    """The lock that ships with this package. Raises ContractError when it is damaged."""
    return parse_lock(resources.files(__package__).joinpath(LOCK_NAME).read_text("utf-8"))


def parse_lock(text: str) -> Lock:
    """Read a lock. Raises ContractError naming the entry at fault."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _damaged("not JSON", text) from error
    if not isinstance(document, dict) or set(document) != {"format", "kafka", "registry"}:
        raise _damaged("its keys must be format, kafka and registry", document)
    if document["format"] != LOCK_FORMAT:
        raise _damaged(f"its format must be {LOCK_FORMAT}", document["format"])
    kafka = tuple(_artifact(c, entry) for c, entry in sorted(document["kafka"].items()))
    registry = [_artifact(c, entry) for c, entry in document["registry"].items()]
    if len(registry) != 1 or not any(a.name == BROKER_NAME for a in kafka):
        raise _damaged("it needs one registry archive and the broker", sorted(document["registry"]))
    return Lock(kafka, registry[0])


def format_lock(lock: Lock) -> str:
    """The text of `artifacts.lock.json`; `parse_lock` reads back the same value."""

    def entries(artifacts: tuple[Artifact, ...]) -> dict[str, Mapping[str, Any]]:
        return {
            a.coordinates: {"bytes": a.size, "sha256": a.sha256}
            for a in sorted(artifacts, key=lambda a: a.coordinates)
        }

    document = {
        "format": LOCK_FORMAT,
        "kafka": entries(lock.kafka),
        "registry": entries((lock.registry,)),
    }
    return json.dumps(document, indent=1) + "\n"


def _artifact(coordinates: str, entry: object) -> Artifact:
    if not COORDINATE.fullmatch(coordinates):
        raise _damaged("not group:name:version[:packaging:classifier]", coordinates)
    if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
        raise _damaged(f"{coordinates} must have bytes and sha256", entry)
    size, sha256 = entry["bytes"], entry["sha256"]
    if not (isinstance(size, int) and size > 0 and SHA256.fullmatch(str(sha256))):
        raise _damaged(f"{coordinates} has no valid size and SHA-256", entry)
    group, name, version, packaging, classifier = (*coordinates.split(":"), "jar", "")[:5]
    return Artifact(group, name, version, packaging, classifier, sha256, size)


def _damaged(why: str, value: object) -> ContractError:
    return ContractError(
        f"the lock file is damaged: {why}",
        parameter=LOCK_NAME,
        value=value,
        fix="Install Seamline again",
    )
