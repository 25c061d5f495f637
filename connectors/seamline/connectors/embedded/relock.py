"""Write the lock anew, for whoever raises a version.

`python -m seamline.connectors.embedded.relock`. Decides: the versions of the stack, and that the
broker's dependencies are those of its own POM. The digests it writes are those of what it
downloads: compare them with the projects' published ones. Must not know: anything that runs; no
start of a stack ever comes here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from seamline.connectors.embedded.artifacts import LOCK_NAME, Artifact, Lock, format_lock
from seamline.connectors.embedded.download import sha256_of

KAFKA = ("org.apache.kafka", "kafka_2.13", "4.3.1")
# Without it the broker logs nothing.
LOGGING = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4")
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")


def resolve(repo_cache: Path) -> Lock:
    from jgo.maven import Dependency, MavenContext

    context = MavenContext(repo_cache=repo_cache, timeout=60)

    def artifact(group: str, name: str, version: str, **kind: str) -> Any:
        return context.project(group, name).at_version(version).artifact(**kind)

    # `raw`: else the logging library's own dependency management replaces the broker's clients.
    wanted = [Dependency(artifact(*coordinates), raw=True) for coordinates in (KAFKA, LOGGING)]
    given, transitive = context.resolver.resolve(wanted)
    kafka = tuple(_described(d.artifact) for d in (*given, *transitive))
    archive = artifact(*REGISTRY, classifier="all", packaging="tar.gz")
    return Lock(kafka, _described(archive))


def _described(found: Any) -> Artifact:
    path = Path(found.resolve())
    return Artifact(
        found.groupId,
        found.artifactId,
        found.version,
        found.packaging,
        found.classifier,
        sha256_of(path),
        path.stat().st_size,
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = format_lock(resolve(Path(folder)))
    Path(__file__).with_name(LOCK_NAME).write_text(text, "utf-8")
