"""From the lock to files that may be run: download, check, keep.

Decides: where artifacts are kept, when a digest is computed, how a failed download is told.
Invariants: a file is under its final name only after its SHA-256 was found equal to the lock; it
gets there by an atomic rename; two processes never download the same thing at once (file lock); a
file checked before is accepted by size and modification time, anything else is hashed again.
Must not know: what the files are for. The cache: `artifacts/` in Maven's layout, `registry/`
unpacked archives, `staging/` what is not checked yet.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seamline.connectors.embedded.artifacts import Artifact, Lock
from seamline.connectors.embedded.held import held
from seamline.connectors.embedded.processes import extra_missing
from seamline.connectors.embedded.progress import Bars
from seamline.schemas.errors import TransportError, UsageError

CACHE_VARIABLE = "SEAMLINE_CACHE_DIR"
# Another repository of Maven's layout, for networks that cannot reach the resolver's default.
MIRROR_VARIABLE = "SEAMLINE_MAVEN_MIRROR"
PARALLEL = 4
ATTEMPTS = 3
TIMEOUT_S = 30
LOCK_WAIT_S = 900.0
# An archive, what it unpacks to, and some air.
SPACE_FACTOR = 3
CHECKED_SUFFIX = ".checked"
UNPACKED_NAME = "unpacked.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """Files ready to run: the broker's class path, and the folder of the registry."""

    classpath: tuple[Path, ...]
    registry_home: Path


def cache_directory(env: Mapping[str, str]) -> Path:
    """`SEAMLINE_CACHE_DIR`, else the user's cache directory."""
    if env.get(CACHE_VARIABLE):
        return Path(env[CACHE_VARIABLE]).expanduser().resolve()
    from platformdirs import user_cache_path

    return user_cache_path("seamline", appauthor=False)


def install(
    lock: Lock, cache: Path, env: Mapping[str, str], notify: Callable[[str], None]
) -> Installed:
    """Make every file of `lock` present and checked; download what is missing.

    Raises TransportError for a failed download, a wrong checksum or a full disk.
    """
    home = cache / "registry" / f"{lock.registry.version}-{lock.registry.sha256[:12]}"
    try:
        if _missing(lock, cache, home):
            waiting = "another process is downloading the stack; waiting for it"
            with held(cache / "download.lock", LOCK_WAIT_S, lambda: notify(waiting)):
                # Asked again: the process that held the lock may have done it all.
                if missing := _missing(lock, cache, home):
                    _fetch(missing, lock, cache, home, env)
    except OSError as error:
        raise disk_fault(error, cache, CACHE_VARIABLE) from error
    return Installed(tuple(place(cache, a) for a in lock.kafka), home)


def place(cache: Path, artifact: Artifact) -> Path:
    return cache / "artifacts" / artifact.relative_path


def disk_fault(error: OSError, where: Path, parameter: str) -> TransportError | UsageError:
    """What a person should read when a write to `where` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransportError(
            "the disk is full",
            parameter=parameter,
            value=str(where),
            fix="Free some space there, or name another directory",
        )
    return UsageError(
        f"cannot be written: {error.strerror or error}",
        parameter=parameter,
        value=str(where),
        fix="Name a directory that you may write to",
    )


def require_space(where: Path, needed: int, parameter: str) -> None:
    """Raise TransportError unless `needed` bytes are free on the disk of the directory `where`."""
    free = shutil.disk_usage(where).free
    if free < needed:
        raise TransportError(
            f"the disk is full: {needed >> 20} MiB are needed, {free >> 20} MiB are free",
            parameter=parameter,
            value=str(where),
            fix="Free some space there, or name another directory",
        )


def is_checked(path: Path, artifact: Artifact) -> bool:
    """Whether the file is that of the lock; a mark spares hashing an unchanged file again."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    mark = path.with_name(path.name + CHECKED_SUFFIX)
    expected = f"{artifact.sha256} {stat.st_size} {stat.st_mtime_ns}"
    if mark.exists() and mark.read_text("ascii") == expected:
        return True
    if stat.st_size != artifact.size or sha256_of(path) != artifact.sha256:
        return False
    write_atomically(mark, expected)
    return True


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never a part; mode 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _missing(lock: Lock, cache: Path, home: Path) -> list[Artifact]:
    missing = [a for a in lock.kafka if not is_checked(place(cache, a), a)]
    return missing if _is_unpacked(home, lock.registry) else [*missing, lock.registry]


def _fetch(
    missing: list[Artifact], lock: Lock, cache: Path, home: Path, env: Mapping[str, str]
) -> None:
    total = sum(a.size for a in missing)
    cache.mkdir(parents=True, exist_ok=True)
    require_space(cache, total * SPACE_FACTOR, CACHE_VARIABLE)
    staging = cache / "staging"
    # We hold the lock, so what lies here was left by a process that was killed.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with Bars("Kafka and the registry", total) as bars, ThreadPoolExecutor(PARALLEL) as pool:
            # The largest file first: it decides how long the whole takes.
            ordered = sorted(missing, key=lambda a: -a.size)
            waits = [pool.submit(_download, a, staging, env, bars) for a in ordered]
            try:
                for artifact, wait in zip(ordered, waits, strict=True):
                    _keep(artifact, wait.result(), cache, home, lock)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(artifact: Artifact, staging: Path, env: Mapping[str, str], bars: Bars) -> Path:
    """Bring one file into `staging` and check it."""
    try:
        from jgo.maven import MavenContext, PythonResolver
        from requests import RequestException
    except ImportError as error:
        raise extra_missing("jgo") from error

    mirror = env.get(MIRROR_VARIABLE)
    context = MavenContext(
        resolver=PythonResolver(progress_callback=bars.file),
        repo_cache=staging,
        remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
        timeout=TIMEOUT_S,
    )
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    wanted = component.artifact(classifier=artifact.classifier, packaging=artifact.packaging)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            path = Path(wanted.resolve())
            break
        except RequestException as error:
            # The resolver writes in place: what a broken connection left must not look complete.
            (staging / artifact.relative_path).unlink(missing_ok=True)
            if attempt == ATTEMPTS:
                raise _not_downloaded(artifact, type(error).__name__, retriable=True) from error
        except RuntimeError as error:
            raise _not_downloaded(artifact, "the repository does not have it") from error
    found = sha256_of(path)
    if found != artifact.sha256:
        size = path.stat().st_size
        path.unlink()
        raise TransportError(
            f"the downloaded file has SHA-256 {found} ({size} bytes), the lock says "
            f"{artifact.sha256} ({artifact.size} bytes); it was thrown away",
            parameter="artifact",
            value=artifact.coordinates,
            fix="Try again; if it stays, the repository or a proxy alters files: do not run them",
            retriable=False,
        )
    return path


def _not_downloaded(artifact: Artifact, why: str, *, retriable: bool = False) -> TransportError:
    return TransportError(
        f"the download failed: {why}",
        parameter="artifact",
        value=artifact.coordinates,
        fix=f"Check the network, or name a mirror in {MIRROR_VARIABLE}; what came is kept",
        retriable=retriable,
    )


def _keep(artifact: Artifact, path: Path, cache: Path, home: Path, lock: Lock) -> None:
    if artifact == lock.registry:
        _unpack(path, artifact, home)
        return
    target = place(cache, artifact)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    stat = target.stat()
    mark = target.with_name(target.name + CHECKED_SUFFIX)
    write_atomically(mark, f"{artifact.sha256} {stat.st_size} {stat.st_mtime_ns}")


def _unpack(archive: Path, artifact: Artifact, home: Path) -> None:
    """Unpack a checked archive beside `home`, note every file, then put it in place at once."""
    fresh = archive.parent / "unpacked"
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # not in 3.11.0-3.11.3; the digest was checked anyway
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(fresh)
    note = {"sha256": artifact.sha256, "files": _inventory(fresh)}
    write_atomically(fresh / UNPACKED_NAME, json.dumps(note))
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():
        shutil.rmtree(home)
    fresh.rename(home)


def _is_unpacked(home: Path, artifact: Artifact) -> bool:
    try:
        note = json.loads((home / UNPACKED_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(note.get("sha256") == artifact.sha256 and note.get("files") == _inventory(home))


def _inventory(root: Path) -> dict[str, list[int]]:
    """Size and modification time of every file: a change shows without hashing 160 MB."""
    found: dict[str, list[int]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if name != UNPACKED_NAME:
                stat = path.stat()
                found[path.relative_to(root).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found
