"""Fresh presets as a fixture. Decides: that their files lie in the test's own directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from preset_making import FreshPreset, make_preset, preset_yaml
from seamline.connectors.world import World

__all__ = ["FreshPreset", "MakePreset", "fresh_preset", "preset_yaml"]


class MakePreset(Protocol):
    def __call__(
        self, *, interval: str = ..., derive: tuple[str, ...] = ..., **settings: Any
    ) -> FreshPreset: ...


@pytest.fixture
def fresh_preset(world: World, tmp_path: Path) -> MakePreset:
    """`fresh_preset(partitions=2, derive=("5m",), block_rows=60)`: keys are those of the file."""

    def make(*, interval: str = "1m", derive: tuple[str, ...] = (), **settings: Any) -> FreshPreset:
        return make_preset(world, tmp_path, interval=interval, derive=derive, **settings)

    return make
