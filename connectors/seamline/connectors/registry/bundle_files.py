"""A bundle of schemas in a directory: reading the one that a person proposes, writing ours.

Decides: that every visible entry of the directory is a file of the bundle (a misspelled name must
not be passed over), and how much of it is read. Invariant: nothing that exists is overwritten. Must
not know: what makes a bundle right.
"""

from __future__ import annotations

from pathlib import Path

from seamline.schemas.avro import SCHEMA_BYTES_MAX
from seamline.schemas.bundle import FILES_MAX, SUFFIX, Bundle, bundle_of
from seamline.schemas.errors import UsageError


def read_bundle(directory: Path, parameter: str = "bundle") -> Bundle:
    """The bundle in `directory`.

    Raises UsageError where the directory or a file of it cannot be read, ContractError for what is
    no bundle, with every fault.
    """
    files: dict[str, bytes] = {}
    try:
        for path in sorted(directory.iterdir()):
            if path.name.startswith("."):
                continue
            with path.open("rb") as file:
                files[path.name] = file.read(SCHEMA_BYTES_MAX + 1)
            if len(files) > FILES_MAX:
                break
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror or type(error).__name__}",
            parameter=parameter,
            value=str(error.filename or directory),
            fix=f"Give a directory that holds {SUFFIX} files and nothing else",
        ) from None
    return bundle_of(files)


def write_bundle(bundle: Bundle, directory: Path, parameter: str = "export") -> list[Path]:
    """Write a bundle's files into an empty or new directory; the paths. Raises UsageError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(
                "the directory is not empty",
                parameter=parameter,
                value=str(directory),
                fix="Give a new one: nothing is overwritten",
            )
        written = []
        for schema in bundle.schemas:
            path = directory / f"{schema.name}.v{schema.version}{SUFFIX}"
            path.write_text(schema.text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror or type(error).__name__}",
            parameter=parameter,
            value=str(error.filename or directory),
            fix="Give a directory that this process may write to",
        ) from None
    return written
