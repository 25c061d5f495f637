"""`python copy_worker.py PRESET PARTITIONS DIRECTORY SESSION_S [METRICS_PORT]`: the product's
worker process around the copying machine. One line on stderr per event that a test waits for."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from integration.copy_machine import copy_factory
from integration.plain_preset import plain_preset
from seamline.connectors.world import World
from seamline.streams.apps.worker import Told, WorkerSettings, run_worker


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> None:
    preset_id, partitions, directory, session_s, *port = arguments
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(os.environ.get("FAUST_LEVEL", "CRITICAL"))
    run_worker(
        [plain_preset(preset_id, int(partitions))],
        {},
        World.resolve(os.environ),
        copy_factory,
        WorkerSettings(
            Path(directory),
            session_timeout_ns=int(float(session_s) * 1e9),
            metrics_port=int(port[0]) if port else None,
        ),
        Told(
            owned=lambda _, owned: say(f"OWNED {','.join(map(str, owned))}"),
            scraped=lambda where: say(f"METRICS {where}"),
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
