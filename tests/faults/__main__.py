"""`make reliability`: break things for real, by seed, and compare with what should be there.

Runs cases on embedded stacks of their own. Exit status: 0 nothing was lost, duplicated or changed;
1 something was, or a run did not end: its seed and timeline are printed, and its logs are kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from faults.case import Case, Ground
from faults.report import Run, case_table, fault_table, generated, put_into
from faults.results import append, as_record, load
from seamline.connectors import jit_cache
from seamline.connectors.embedded.stack import running
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World

FAILURE_LINES = 60


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def stack(versions: dict[str, str], brokers: int = 1) -> Iterator[tuple[World, Path]]:
    with running(brokers=brokers) as ready:
        versions.update(ready.versions)
        yield World(Cluster(ready.bootstrap), ready.registry_url), ready.directory


def run_one(case: Case, seed: int, made: tuple[World, Path], home: Path) -> Run:
    directory = home / f"{case.name}-{seed}"
    directory.mkdir(parents=True)
    try:
        run = Run(case, seed, case.run(Ground(made[0], directory, made[1]), seed))
    except Exception as error:
        text = "".join(traceback.format_exception(error)).splitlines()[-FAILURE_LINES:]
        run = Run(case, seed, None, "\n".join(text))
    if run.ok:
        say(f"ok      {case.name} seed {seed}: {run.story().splitlines()[0]}")
    else:
        (directory / "failure.txt").write_text(run.story(), encoding="utf-8")
        say(f"FAILED  {case.name} seed {seed}; logs: {directory}\n{run.story()}\n{run.again()}")
    return run


def run_all(
    plan: Sequence[tuple[Case, int]], home: Path, versions: dict[str, str]
) -> Iterator[Run]:
    """Each run as it ends; the cases that break no broker share one stack."""
    shared = [(case, seed) for case, seed in plan if not case.own_stack]
    if shared:
        with stack(versions) as made:
            for case, seed in shared:
                yield run_one(case, seed, made, home)
    for case, seed in plan:
        if case.own_stack:
            with stack(versions, case.brokers) as made:
                yield run_one(case, seed, made, home)


def arguments(known: Mapping[str, Case]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--case", nargs="+", metavar="NAME", help="these cases alone")
    parser.add_argument("--list", action="store_true", help="name the cases and run nothing")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many runs of each case")
    parser.add_argument("--seed", type=int, nargs="+", help="these seeds alone")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where logs of the runs stay")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="add each run to this file; runs that it holds as good are not made again",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PAGE",
        help="put the tables of these runs, or of all --results, into the page",
    )
    options = parser.parse_args()
    unknown = [name for name in options.case or () if name not in known]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; one of {', '.join(known)}")
    if options.write and (options.case or options.seed) and not options.results:
        parser.error("--write needs all cases and seeds, or --results")
    return options


def main() -> int:
    jit_cache.use()  # before anything imports numba
    from faults.table import CASES

    options = arguments({case.name: case for case in CASES})
    cases = [case for case in CASES if not options.case or case.name in options.case]
    if options.list:
        print("\n".join(f"{case.name}  {case.sentence}, {case.seeds} runs" for case in cases))
        return 0
    file: Path | None = options.results
    done = {(r.case.name, r.seed) for r in load(file, CASES) if r.ok} if file else set()
    plan = [
        (case, seed)
        for case in cases
        for seed in options.seed or range(options.seeds or case.seeds)
        if (case.name, seed) not in done
    ]
    home = options.keep or Path(tempfile.mkdtemp(prefix="seamline-faults-"))
    versions = {"Seamline": version("seamline"), "Python": platform.python_version()}
    runs = []
    for run in run_all(plan, home, versions):
        runs.append(run)
        if file:
            append(file, run)
    failed = [run for run in runs if not run.ok]
    shown = load(file, CASES) if file else runs
    if options.output == "json":
        print(json.dumps([as_record(run) for run in shown], indent=1))
    else:
        print(f"{fault_table(shown)}\n\n{case_table(shown)}")
    if options.write:
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(put_into(page, generated(shown, day, versions)), encoding="utf-8")
    for run in failed:
        say(f"failed: {run.again()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
