"""`make mutants`: break the code in named places, one at a time, and see that a test fails.

Exit status: 0 every place was caught; 1 one was not; 2 the table does not fit the sources, or the
tests fail on the unbroken tree, so that nothing would mean anything.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

from mutants.mutant import Mutant, StaleMutant
from mutants.report import as_json, page, table
from mutants.table import MUTANTS
from mutants.workbench import DEADLINE_S, Found, Workbench
from seamline.connectors.embedded.stack import running
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World
from stack_fixture import STACK_VARIABLE

ROOT = Path(__file__).parents[2]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(names: Sequence[str] | None, group: str = "all") -> tuple[Mutant, ...]:
    if not names:
        return tuple(m for m in MUTANTS if group == "all" or m.needs_broker == (group == "broker"))
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StaleMutant(f"no such place: {', '.join(unknown)}; --list shows all")
    return tuple(known[name] for name in names)


@contextmanager
def broker_of(mutants: Sequence[Mutant]) -> Iterator[Mapping[str, str]]:
    """The environment of tests on one broker for all runs, empty where no test needs one."""
    if not any(mutant.needs_broker for mutant in mutants):
        yield {}
        return
    with running() as ready:
        world = World(Cluster(ready.bootstrap), ready.registry_url)
        yield {STACK_VARIABLE: "external", **world.environment()}


def judge_all(
    mutants: Sequence[Mutant], jobs: int, deadline_s: float
) -> tuple[dict[str, Found], str | None]:
    """What became of each; a text instead where the tests fail unbroken."""
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with ExitStack() as stack:
        roots = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
            for _ in range(jobs)
        ]
        environment = stack.enter_context(broker_of(mutants))
        first = Workbench.of(ROOT, roots[0], deadline_s, environment)
        say(f"{len(tests)} tests on the unbroken tree")
        wrong = first.check_unbroken(tests)
        if wrong is not None:
            return {}, wrong
        benches: SimpleQueue[Workbench] = SimpleQueue()
        for bench in (first, *(first.twin(root) for root in roots[1:])):
            benches.put(bench)

        def judge(mutant: Mutant) -> Found:
            bench = benches.get()
            try:
                found = bench.judge(mutant)
            finally:
                benches.put(bench)
            say(f"{found.verdict:9} {found.name}  {found.by}")
            return found

        with ThreadPoolExecutor(jobs) as pool:
            return {found.name: found for found in pool.map(judge, mutants)}, None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these places alone")
    parser.add_argument(
        "--group", choices=["all", "pure", "broker"], default="all", help="with or without a broker"
    )
    parser.add_argument("--list", action="store_true", help="name the places and run nothing")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--jobs", type=int, default=1, help="copies that run side by side")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds for one place")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page: these places anew")
    options = parser.parse_args()
    try:
        mutants = chosen(options.only, options.group)
        for mutant in mutants:
            mutant.applied(ROOT)
    except StaleMutant as stale:
        say(str(stale))
        return 2
    if options.list:
        print("\n".join(f"{mutant.name}  {mutant.place}" for mutant in mutants))
        return 0
    found, wrong = judge_all(mutants, max(1, options.jobs), options.deadline)
    if wrong is not None:
        say(f"The tests fail on the unbroken tree:\n{wrong}")
        return 2
    print(as_json(mutants, found) if options.output == "json" else table(mutants, found))
    if any(each.verdict != "caught" for each in found.values()):
        return 1
    if options.write:
        before = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
        options.write.write_text(page(MUTANTS, found, before), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
