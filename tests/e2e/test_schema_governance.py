"""The runbook of schema governance, run as it stands in the docs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runbook.page import replay, run
from runbook.scenes import Scenes
from seamline.connectors.embedded.stack import running
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World

PAGE = Path(__file__).parents[2] / "docs" / "schema-governance.md"


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_the_commands_of_the_runbook_do_what_it_says(tmp_path: Path) -> None:
    # A stack of its own: the page shows the whole audit log, and ids from the first on.
    with running() as ready:
        world = World(Cluster(ready.bootstrap), ready.registry_url)
        with Scenes(world, tmp_path) as scenes:
            environment = {**os.environ, **scenes.environment()}
            _, differs = replay(
                PAGE.read_text(encoding="utf-8"),
                scenes.play,
                lambda command: run(command, environment, scenes.directory),
            )
    assert not differs, "\n\n".join(differs)
