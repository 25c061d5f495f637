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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from faults.case import Case, Ground
from faults.report import Run, case_table, fault_table, generated, put_into
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
    cases: Sequence[Case], seeds: Sequence[int] | None, count: int | None, home: Path
) -> tuple[list[Run], dict[str, str]]:
    runs: list[Run] = []
    versions = {"Python": platform.python_version()}
    shared = [case for case in cases if not case.own_stack]
    alone = [case for case in cases if case.own_stack]

    def chosen(case: Case) -> Sequence[int]:
        return seeds if seeds is not None else range(case.seeds if count is None else count)

    if shared:
        with stack(versions) as made:
            for case in shared:
                runs += [run_one(case, seed, made, home) for seed in chosen(case)]
    for case in alone:
        for seed in chosen(case):
            with stack(versions, case.brokers) as made:
                runs.append(run_one(case, seed, made, home))
    return runs, versions


def as_json(runs: Sequence[Run]) -> str:
    return json.dumps(
        [
            {
                "case": run.case.name,
                "seed": run.seed,
                "ok": run.ok,
                **({"failure": run.failure} if run.outcome is None else asdict(run.outcome)),
            }
            for run in runs
        ],
        indent=1,
    )


def main() -> int:
    jit_cache.use()  # before anything imports numba
    from faults.table import CASES

    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--case", nargs="+", metavar="NAME", help="these cases alone")
    parser.add_argument("--list", action="store_true", help="name the cases and run nothing")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many runs of each case")
    parser.add_argument("--seed", type=int, nargs="+", help="these seeds alone")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where logs of the runs stay")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page of the documentation")
    options = parser.parse_args()
    known = {case.name: case for case in CASES}
    unknown = [name for name in options.case or () if name not in known]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; one of {', '.join(known)}")
    if options.write and (options.case or options.seed):
        parser.error("--write needs all cases and seeds")
    cases = [known[name] for name in options.case] if options.case else list(CASES)
    if options.list:
        print("\n".join(f"{case.name}  {case.sentence}, {case.seeds} runs" for case in cases))
        return 0
    home = options.keep or Path(tempfile.mkdtemp(prefix="seamline-faults-"))
    runs, versions = run_all(cases, options.seed, options.seeds, home)
    print(
        as_json(runs) if options.output == "json" else f"{fault_table(runs)}\n\n{case_table(runs)}"
    )
    if options.write:
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(put_into(page, generated(runs, day, versions)), encoding="utf-8")
    failed = [run for run in runs if not run.ok]
    for run in failed:
        say(f"failed: {run.again()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
