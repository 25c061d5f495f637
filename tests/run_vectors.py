"""Evaluate files of test vectors with the drivers of the suite.

    python tests/run_vectors.py FILE... [--family NAME...]

Ends with `N passed, N failed`; exit status 1 when a vector failed or a family has no driver, 2 when
a file cannot be read. A vector that `applies_if` rules out counts as neither.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from vectors.drivers import DRIVERS
from vectors.engine import Outcome, Verdict, evaluate, load


def run(files: list[Path], families: list[str] | None) -> int:
    outcomes: list[Outcome] = []
    without: Counter[str] = Counter()
    seen: set[str] = set()
    for path in files:
        document = load(path)
        group = document["group"]
        for vector in document["vectors"]:
            family = vector["family"]
            if families is not None and family not in families:
                continue
            seen.add(family)
            if (group, family) not in DRIVERS:
                without[f"{group}/{family}"] += 1
            outcomes.append(evaluate(group, vector))
    for outcome in outcomes:
        if outcome.verdict is not Verdict.PASSED:
            print(f"{outcome.verdict.upper()} {outcome.id}: {outcome.reason}")
    for family, vectors in sorted(without.items()):
        print(f"no driver for {family}: {vectors} vectors")
    absent = sorted(set(families or ()) - seen)
    for family in absent:
        print(f"no vector of family {family} in the files")
    counts = Counter(outcome.verdict for outcome in outcomes)
    print(f"{counts[Verdict.PASSED]} passed, {counts[Verdict.FAILED]} failed")
    return 1 if counts[Verdict.FAILED] or absent else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate files of test vectors.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--family", nargs="+", action="extend", metavar="NAME")
    arguments = parser.parse_args()
    try:
        return run(arguments.files, arguments.family)
    except (OSError, ValueError, KeyError, AssertionError) as fault:
        print(f"cannot read the vectors: {fault}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
