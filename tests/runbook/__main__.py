"""`python -m runbook --write docs/schema-governance.md`: run a page, and put in what it printed.

Exit status: 0 when nothing differs, 1 when something did (it is printed, and written if asked).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from runbook.page import replay, run
from runbook.scenes import Scenes
from seamline.connectors.embedded.stack import running
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m runbook", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--write", action="store_true", help="put the outputs of now into it")
    options = parser.parse_args()
    text = options.page.read_text(encoding="utf-8")
    with running() as ready, tempfile.TemporaryDirectory() as directory:
        world = World(Cluster(ready.bootstrap), ready.registry_url)
        with Scenes(world, Path(directory)) as scenes:
            environment = {**os.environ, **scenes.environment()}
            page, differs = replay(
                text, scenes.play, lambda command: run(command, environment, scenes.directory)
            )
    print("\n\n".join(differs))
    if options.write:
        options.page.write_text(page, encoding="utf-8")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
