"""Presets of their own, with topics on a broker and schemas registered; no pytest in it.

Decides: what a fresh preset is when nobody says anything else. Invariants: no two calls share an
id; the presets file is real and goes through the loader, so that a child process reads the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from seamline.connectors.kafka import topics
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.modes import CANARY
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


def make_preset(
    world: World,
    directory: Path,
    *,
    interval: str = "1m",
    derive: tuple[str, ...] = (),
    **settings: Any,
) -> FreshPreset:
    """A preset of a name nobody has, in a file of its own; settings are the keys of the file."""
    return make_presets(world, directory, [settings], interval=interval, derive=derive)[0]


def make_trades_preset(world: World, directory: Path, *, partitions: int = 1) -> FreshPreset:
    """A preset of kind trades, of a name nobody has, in a file of its own."""
    name = f"trades.t{secrets.token_hex(6)}.spot"
    entry = {"kind": "trades", "partitions": partitions, "live": {"feed": "binance.ws.trade"}}
    file = directory / f"{name}.yaml"
    file.write_text(_document({name: entry}), encoding="utf-8")
    presets = loader.load(file, {})
    topics.apply(world.cluster, presets[name])
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        ids = ensure_registered(client, presets[name], lambda _: CANARY)
    finally:
        client.close()
    return FreshPreset(world, presets[name], (), presets, ids, file)


def make_presets(
    world: World,
    directory: Path,
    each: Sequence[Mapping[str, Any]],
    *,
    interval: str = "1m",
    derive: tuple[str, ...] = (),
) -> list[FreshPreset]:
    """Presets that share one file, so that one worker can take them all; one for each settings."""
    venues = [f"t{secrets.token_hex(6)}" for _ in each]
    entries: dict[str, Any] = {}
    for venue, settings in zip(venues, each, strict=True):
        entries |= _entries(venue, interval, derive, settings)
    file = directory / f"{venues[0]}.yaml"
    file.write_text(_document(entries), encoding="utf-8")
    presets = loader.load(file, {})
    found = []
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        for venue in venues:
            preset = presets[f"ohlcv.{venue}.spot.{interval}"]
            derived = loader.derived_of(presets, preset.id)
            ids: dict[str, int] = {}
            for one in (preset, *derived):
                topics.apply(world.cluster, one)
                ids |= ensure_registered(client, one, lambda _: CANARY)
            found.append(FreshPreset(world, preset, derived, presets, ids, file))
    finally:
        client.close()
    return found


def make_named(world: World, directory: Path, preset_id: str) -> FreshPreset:
    """A preset of bars of a minute under a name that somebody chose, `ohlcv.VENUE.spot.1m`."""
    venue, interval = preset_id.split(".")[1::2]
    file = directory / "presets.yaml"
    file.write_text(_document(_entries(venue, interval, (), {})), encoding="utf-8")
    return make_listed(world, file, preset_id)


def make_listed(world: World, file: Path, preset_id: str) -> FreshPreset:
    """A preset of a file that somebody wrote; those derived from it are left out."""
    presets = loader.load(file, {})
    preset = presets[preset_id]
    topics.apply(world.cluster, preset)
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        ids = ensure_registered(client, preset, lambda _: CANARY)
    finally:
        client.close()
    return FreshPreset(world, preset, (), presets, ids, file)


def preset_yaml(
    venue: str, interval: str, derive: tuple[str, ...], settings: Mapping[str, Any]
) -> str:
    """The text of a presets file with one preset and those derived from it."""
    return _document(_entries(venue, interval, derive, settings))


def _document(entries: Mapping[str, Any]) -> str:
    return yaml.safe_dump({"version": 1, "data_presets": dict(entries)}, sort_keys=False)


def _entries(
    venue: str, interval: str, derive: tuple[str, ...], settings: Mapping[str, Any]
) -> dict[str, Any]:
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
    return entries


def _ms(interval: str) -> int:
    return parse_duration(interval, parameter="interval") // NS_PER_MS
