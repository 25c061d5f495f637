"""Presets of their own for tests, with topics on the session's broker and schemas registered.

Decides: what a fresh preset is when a test says nothing else. Invariants: no two calls share an id;
the presets file is real and goes through the loader, so that a child process reads the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import yaml

from seamline.connectors.kafka import topics
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS, parse_duration
from seamline.schemas.topics import topic_name

PARTITIONS: Final = 4


@dataclass(frozen=True, slots=True)
class FreshPreset:
    """`ids`: schema name -> id in the registry; `file`: the presets file that holds it."""

    world: World
    preset: Preset
    derived: tuple[Preset, ...]
    presets: Mapping[str, Preset]
    ids: Mapping[str, int]
    file: Path

    def topic(self, role: str) -> str:
        return topic_name(self.preset.id, role)

    def environment(self) -> dict[str, str]:
        """For a child process: the same world and the same presets."""
        return self.world.environment() | {loader.FILE_VARIABLE: str(self.file)}


class MakePreset(Protocol):
    def __call__(
        self, *, interval: str = ..., derive: tuple[str, ...] = ..., **settings: Any
    ) -> FreshPreset: ...


@pytest.fixture
def fresh_preset(world: World, tmp_path: Path) -> MakePreset:
    """`fresh_preset(partitions=2, derive=("5m",), block_rows=60)`: keys are those of the file."""

    def make(*, interval: str = "1m", derive: tuple[str, ...] = (), **settings: Any) -> FreshPreset:
        venue = f"t{secrets.token_hex(6)}"
        file = tmp_path / f"{venue}.yaml"
        file.write_text(preset_yaml(venue, interval, derive, settings), encoding="utf-8")
        presets = loader.load(file, {})
        preset = presets[f"ohlcv.{venue}.spot.{interval}"]
        derived = loader.derived_of(presets, preset.id)
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        ids: dict[str, int] = {}
        try:
            for each in (preset, *derived):
                topics.apply(world.cluster, each)
                ids |= ensure_registered(client, each)
        finally:
            client.close()
        return FreshPreset(world, preset, derived, presets, ids, file)

    return make


def preset_yaml(
    venue: str, interval: str, derive: tuple[str, ...], settings: Mapping[str, Any]
) -> str:
    """The text of a presets file with one preset and those derived from it."""
    parent = f"ohlcv.{venue}.spot.{interval}"
    entries: dict[str, Any] = {
        parent: {
            "kind": "ohlcv",
            "interval_ms": _ms(interval),
            "partitions": PARTITIONS,
            "backfill": {"source": "binance.rest"},
            **({"live": {"feed": "binance.ws.kline.1m"}} if interval == "1m" else {}),
            **settings,
        }
    }
    for finer in derive:
        entries[f"ohlcv.{venue}.spot.{finer}"] = {
            "kind": "ohlcv",
            "interval_ms": _ms(finer),
            "derive_from": parent,
        }
    return yaml.safe_dump({"version": 1, "data_presets": entries}, sort_keys=False)


def _ms(interval: str) -> int:
    return parse_duration(interval, parameter="interval") // NS_PER_MS
