"""One broker and one registry for a whole pytest session, and presets of their own for tests.

Decides: where the stack comes from (`SEAMLINE_TEST_STACK`): `embedded` (default) starts one in a
temporary directory, `external` takes the environment's, `containers` starts images and skips where
no engine is. Invariants: one stack per session, started by the first test that asks, ended with the
session; no test names a topic that another test uses. Tests that use it carry the mark
`integration`. A second stack, of three brokers, is embedded whatever the variable says (its brokers
are killed), and starts only when a test asks for it: it takes 1.0 GB and some seconds of two cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World
from seamline.schemas.errors import UsageError

STACK_VARIABLE = "SEAMLINE_TEST_STACK"


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The session's broker and registry, empty at the start unless external."""
    kind = os.environ.get(STACK_VARIABLE, "embedded")
    if kind not in STACKS:
        raise UsageError(
            "no such stack", parameter=STACK_VARIABLE, value=kind, fix=f"One of {', '.join(STACKS)}"
        )
    with STACKS[kind]() as found:
        yield found


@dataclass(frozen=True, slots=True)
class ClusterOfThree:
    """Three brokers and a registry of their own; `directory` names them to `embedded.single`."""

    world: World
    directory: Path


@pytest.fixture(scope="session")
def cluster_of_three() -> Iterator[ClusterOfThree]:
    """Whoever ends one of its brokers starts it again: `stack.up(directory)`."""
    from seamline.connectors.embedded.stack import running

    with running(brokers=3) as ready:
        yield ClusterOfThree(World(Cluster(ready.bootstrap), ready.registry_url), ready.directory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"world", "cluster_of_three"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@contextmanager
def embedded() -> Iterator[World]:
    from seamline.connectors.embedded.stack import running

    with running() as ready:
        yield World(Cluster(ready.bootstrap), ready.registry_url)


@contextmanager
def external() -> Iterator[World]:
    yield World.resolve(os.environ)


@contextmanager
def containers() -> Iterator[World]:
    from container_stack import container_stack

    with container_stack() as ready:
        yield ready


STACKS: dict[str, Callable[[], AbstractContextManager[World]]] = {
    "embedded": embedded,
    "external": external,
    "containers": containers,
}
