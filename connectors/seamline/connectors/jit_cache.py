"""Where compiled kernels are kept: a directory of the user for each state of the sources.

Decides: `NUMBA_CACHE_DIR`, before numba is imported. Numba notices an edit of the file that holds a
function, but not of a file whose function is called by it; so the directory is named by a digest of
all kernel sources, and an edit anywhere starts an empty one. Invariants: a directory named by the
user stays; one that cannot be written is replaced by a private one of this process; beyond
KEPT_MAX directories, those that were not asked for during a day are removed (a process that still
runs may write to a younger one). Must not know: what the kernels do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import platformdirs

VARIABLE = "NUMBA_CACHE_DIR"
PACKAGES = ("seamline.schemas", "seamline.streams.kernel")
# Two clones, and for each what was before the last edits.
KEPT_MAX = 8
UNUSED_S = 86_400
DIGEST_CHARS = 16


def use() -> Path:
    """Set the variable for this process and its children; returns the directory.

    Call it first: once numba is imported the variable has no effect.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    base = Path(platformdirs.user_cache_dir("seamline")) / "jit"
    directory = base / sources_digest(_folders())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".used").touch()
        _prune(base, directory)
    except OSError:
        directory = Path(tempfile.mkdtemp(prefix="seamline-jit-"))
    os.environ[VARIABLE] = str(directory)
    return directory


def sources_digest(folders: list[Path]) -> str:
    """Over the names and contents of all Python files below the folders."""
    sha = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            data = path.read_bytes()
            sha.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode())
            sha.update(data)
    return sha.hexdigest()[:DIGEST_CHARS]


def _folders() -> list[Path]:
    folders: list[Path] = []
    for package in PACKAGES:
        spec = find_spec(package)  # does not import it
        if spec is not None and spec.submodule_search_locations:
            folders.extend(Path(place) for place in spec.submodule_search_locations)
    return folders


def _prune(base: Path, current: Path) -> None:
    """Remove the directories that were used longest ago."""
    others = [path for path in base.iterdir() if path != current and path.is_dir()]
    others.sort(key=_last_used, reverse=True)
    for path in others[KEPT_MAX - 1 :]:
        if time.time() - _last_used(path) > UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)


def _last_used(directory: Path) -> float:
    try:
        return (directory / ".used").stat().st_mtime
    except OSError:
        return 0.0
