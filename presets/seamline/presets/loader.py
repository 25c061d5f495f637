"""Presets out of YAML, version 1: every rule that a `Preset` may rely on is checked here.

Decides: the keys, their defaults and limits, what an id must look like, and how derived presets
relate to their parent. Invariants: nothing unknown is accepted; a fault names file, line, key and
fix; the result is complete or nothing. Must not know: a broker, a connector's code.

`derive_from` may name a derived preset: what is rolled up is the root of the chain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final

from seamline.presets import sources
from seamline.presets.calendars import ALWAYS, CALENDARS
from seamline.presets.document import Section, not_readable, parse, suggestion
from seamline.schemas.errors import SeamlineError, UsageError
from seamline.schemas.preset import BackfillSource, LiveFeed, Preset
from seamline.schemas.times import NS_PER_MS, NS_PER_S, format_duration, parse_duration, parse_time
from seamline.streams.kernel.rules import CONFORMANCE_PRESETS, STRICT_BLOCKING
from seamline.streams.kernel.stabilization import effective_stabilization

FILE_VARIABLE: Final = "SEAMLINE_PRESETS_FILE"
STABILIZATION_VARIABLE: Final = "SEAMLINE_STABILIZATION_BARS"
PACKAGED: Final = "presets.yaml"

KINDS: Final = ("ohlcv", "trades")
KINDS_LATER: Final = ("quotes", "orderbook")
CONTRACT_VERSIONS: Final = ("v1",)
AUTHORITY: Final = ("rest_settled", "ws_closed", "rest_fresh", "ws_open")
OFF_GRID: Final = ("reject", "snap")
BACKFILL_MODES: Final = ("background", "sync")
PRESETS_MAX: Final = 1_000
PARTITIONS_MAX: Final = 1_024
BLOCK_ROWS_MAX: Final = 5_000
WINDOW_BARS_MAX: Final = 1_000_000
STABILIZATION_MAX: Final = 64
INTERVAL_MAX_MS: Final = 366 * 86_400_000
SECONDS_MAX: Final = 366 * 86_400
# A topic name has at most 249 characters; the longest role and the prefix take 20.
ID_MAX: Final = 200

DEFAULT_PARTITIONS: Final = 8
DEFAULT_BLOCK_ROWS: Final = 240
DEFAULT_WINDOW_BLOCKS: Final = 8
DEFAULT_STABILIZATION: Final = 2
DEFAULT_SETTLE_NS: Final = 300 * NS_PER_S
DEFAULT_LAG_NS: Final = 45 * NS_PER_S
DEFAULT_RETENTION: Final = "14d"
RETENTION_MIN_NS: Final = 60 * NS_PER_S

_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)+")
_INTERVAL_SUFFIX: Final = re.compile(r"\d+(ms|s|m|h|d|w)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STORAGE: Final = re.compile(r"topic|(questdb|postgres):[A-Za-z_][\w.]*|parquet:\S+")


def load(path: Path | None, env: Mapping[str, str]) -> Mapping[str, Preset]:
    """Presets by id in the order of the file: `path`, else `SEAMLINE_PRESETS_FILE`, else packaged.

    Where the world sets `SEAMLINE_STABILIZATION_BARS` too, the larger of both is in force. Raises
    UsageError with the fields `file`, `line`, `key` for the first fault of the file, and for a
    setting of the world that is no number of bars.
    """
    text, file = read(path, env)
    presets, faults = parse_presets(text, file)
    if faults:
        raise faults[0]
    world = _world_stabilization(env)
    return MappingProxyType({i: _in_world(preset, world) for i, preset in presets.items()})


def _world_stabilization(env: Mapping[str, str]) -> int | None:
    text = env.get(STABILIZATION_VARIABLE, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,3}", text) or int(text) > STABILIZATION_MAX:
        raise UsageError(
            "not a number of bars",
            parameter=STABILIZATION_VARIABLE,
            value=text,
            fix=f"Use a whole number from 0 to {STABILIZATION_MAX}, or leave it unset",
        )
    return int(text)


def _in_world(preset: Preset, world_bars: int | None) -> Preset:
    bars = effective_stabilization(
        world_stabilization_bars=world_bars, preset_stabilization_bars=preset.stabilization_bars
    )
    return preset if bars is None else replace(preset, stabilization_bars=bars)


def read(path: Path | None, env: Mapping[str, str]) -> tuple[str, str]:
    """`(text, name)` of the file in force. Raises UsageError when it cannot be read."""
    named = path or (Path(env[FILE_VARIABLE]) if env.get(FILE_VARIABLE) else None)
    if named is None:
        packaged = resources.files("seamline.presets").joinpath("data").joinpath(PACKAGED)
        return packaged.read_text(encoding="utf-8"), PACKAGED
    try:
        return named.read_text(encoding="utf-8"), str(named)
    except OSError as error:
        what = f"cannot be read: {error.strerror or type(error).__name__}"
        raise not_readable(str(named), what, line=None) from None
    except UnicodeDecodeError:
        raise not_readable(str(named), "not UTF-8", line=None) from None


def parse_presets(text: str, file: str) -> tuple[dict[str, Preset], list[UsageError]]:
    """The presets without fault, and the first fault of each other one.

    Raises UsageError when the file as a whole is unusable.
    """
    top = parse(text, file)
    top.whole("version", 1, 1)
    listed = top.section("data_presets")
    top.done()
    if listed is None or not listed.entries:
        raise top.fault("data_presets", "no presets", fix="Add at least one preset")
    if len(listed.entries) > PRESETS_MAX:
        raise top.fault("data_presets", f"more than {PRESETS_MAX} presets")
    presets: dict[str, Preset] = {}
    faults: list[UsageError] = []
    for preset_id in listed.entries:
        try:
            presets[preset_id] = _resolve(listed, preset_id, presets)
        except UsageError as error:
            # A child of a faulty parent meets the parent's fault again.
            if not any(error.fields["key"] == other.fields["key"] for other in faults):
                faults.append(error)
    return {i: presets[i] for i in listed.entries if i in presets}, faults


def get(presets: Mapping[str, Preset], preset_id: str) -> Preset:
    """The preset of this id. Raises UsageError that names near matches."""
    found = presets.get(preset_id)
    if found is None:
        raise UsageError(
            "no such preset",
            parameter="preset",
            value=preset_id,
            fix=suggestion(preset_id, presets) or f"One of {', '.join(presets)}",
            preset=preset_id,
        )
    return found


def root_of(presets: Mapping[str, Preset], preset_id: str) -> Preset:
    """The preset that a derived one is rolled up from in the end; itself when it is not derived."""
    preset = get(presets, preset_id)
    while preset.derive_from is not None:  # the loader refused cycles
        preset = get(presets, preset.derive_from)
    return preset


def derived_of(presets: Mapping[str, Preset], preset_id: str) -> tuple[Preset, ...]:
    """All presets that are rolled up from this one, over chains too, finest interval first."""
    get(presets, preset_id)
    found = [
        p
        for p in presets.values()
        if p.derive_from is not None and root_of(presets, p.id).id == preset_id
    ]
    return tuple(sorted(found, key=lambda p: (p.interval_ns, p.id)))


def _resolve(listed: Section, preset_id: str, presets: dict[str, Preset]) -> Preset:
    """The preset, with its parents resolved before it."""
    chain: list[str] = []
    wanted: str | None = preset_id
    while wanted is not None and wanted not in presets:
        if wanted in chain:
            raise _derive_fault(
                listed,
                preset_id,
                f"derives from itself: {' → '.join([*chain[chain.index(wanted) :], wanted])}",
                "Name a preset that is not derived",
            )
        if wanted not in listed.entries:
            fix = suggestion(wanted, listed.entries) or f"One of {', '.join(listed.entries)}"
            raise _derive_fault(listed, chain[-1], "no such preset in this file", fix)
        chain.append(wanted)
        wanted = _parent_id(listed, wanted)
    parent = presets.get(wanted) if wanted is not None else None
    root = root_of(presets, wanted) if wanted is not None else None
    preset: Preset | None = None
    for at in reversed(chain):
        section = listed.section(at)
        assert section is not None
        preset = _preset(at, section, parent, root)
        parent, root = preset, root or preset
    return preset if preset is not None else presets[preset_id]


def _parent_id(listed: Section, preset_id: str) -> str | None:
    section = listed.section(preset_id)
    assert section is not None
    return section.text("derive_from") if section.has("derive_from") else None


def _derive_fault(listed: Section, preset_id: str, message: str, fix: str) -> UsageError:
    section = listed.section(preset_id)
    assert section is not None
    return section.fault("derive_from", message, value=section.text("derive_from"), fix=fix)


def _preset(preset_id: str, section: Section, parent: Preset | None, root: Preset | None) -> Preset:
    kind = _kind(preset_id, section)
    interval_ns = _interval(preset_id, kind, section)
    section.text("derive_from", "")
    block_rows = section.whole("block_rows", 1, BLOCK_ROWS_MAX, DEFAULT_BLOCK_ROWS)
    inherited = parent.partitions if parent else DEFAULT_PARTITIONS
    preset = Preset(
        id=preset_id,
        kind=kind,
        interval_ns=interval_ns,
        contract_version=section.choice("contract_version", CONTRACT_VERSIONS, "v1"),
        partitions=section.whole("partitions", 1, PARTITIONS_MAX, inherited),
        block_rows=block_rows,
        grid_origin_ns=_grid_origin(section, parent),
        storage=_formed(section, "storage", _STORAGE, "topic", "topic, questdb:TABLE, …"),
        backfill=_backfill(section, kind, interval_ns, block_rows),
        live=_live(section, kind, interval_ns),
        conformance_preset=section.choice(
            "conformance_preset", CONFORMANCE_PRESETS, STRICT_BLOCKING
        ),
        sla_preset=_formed(section, "sla_preset", _NAME, "baseline", "a name"),
        stabilization_bars=section.whole(
            "stabilization_bars",
            0,
            STABILIZATION_MAX,
            parent.stabilization_bars if parent else DEFAULT_STABILIZATION,
        ),
        calendar=_calendar(section, parent),
        off_grid=section.choice("off_grid", OFF_GRID, parent.off_grid if parent else "reject"),
        authority=section.texts("authority", AUTHORITY, parent.authority if parent else AUTHORITY),
        derive_from=parent.id if parent else None,
        settle_ns=section.scaled(
            "settle_seconds",
            NS_PER_S,
            0,
            SECONDS_MAX,
            parent.settle_ns if parent else DEFAULT_SETTLE_NS,
        ),
        conformed_retention_ns=_retention(section),
    )
    section.done()
    if parent is not None:
        _check_derived(section, preset, parent, root or parent)
    return preset


def _kind(preset_id: str, section: Section) -> str:
    if len(preset_id) > ID_MAX or not _ID.fullmatch(preset_id):
        raise section.fault(
            "kind",
            "the preset's id is not of the form kind.venue.market",
            value=preset_id,
            fix=f"Lower case, digits, '-', '_' and dots, at most {ID_MAX} characters",
        )
    kind = section.text("kind")
    if kind in KINDS_LATER:
        raise section.fault(
            "kind", "comes with a later release", value=kind, fix=f"One of {', '.join(KINDS)}"
        )
    kind = section.choice("kind", KINDS)
    head = preset_id.partition(".")[0]
    if head in (*KINDS, *KINDS_LATER) and head != kind:
        raise section.fault(
            "kind", f"contradicts the id {preset_id}", value=kind, fix=f"Write {head}, or rename"
        )
    return kind


def _interval(preset_id: str, kind: str, section: Section) -> int:
    if kind == "trades":
        if section.has("interval_ms"):
            raise section.fault("interval_ms", "a trade has no interval", fix="Remove it")
        return 0
    interval_ns = section.whole("interval_ms", 1, INTERVAL_MAX_MS) * NS_PER_MS
    suffix = preset_id.rpartition(".")[2]
    if _INTERVAL_SUFFIX.fullmatch(suffix):
        named_ns = parse_duration(suffix, parameter="preset")
        if named_ns != interval_ns:
            raise section.fault(
                "interval_ms",
                f"contradicts the id {preset_id}",
                value=interval_ns // NS_PER_MS,
                fix=f"Write {named_ns // NS_PER_MS}, or rename",
            )
    return interval_ns


def _grid_origin(section: Section, parent: Preset | None) -> int:
    text = section.text("grid_origin", "")
    if not text:
        return parent.grid_origin_ns if parent else 0
    try:
        if text.startswith(("-", "now")):
            raise UsageError("relative to now", parameter="grid_origin", value=text)
        return parse_time(text, now_ns=0, parameter="grid_origin")
    except UsageError as error:
        raise section.fault(
            "grid_origin", error.message, value=text, fix='Give "1970-01-05T00:00:00Z"'
        ) from None


def _calendar(section: Section, parent: Preset | None) -> str:
    name = section.text("calendar", parent.calendar if parent else ALWAYS)
    if name not in CALENDARS:
        near = suggestion(name, CALENDARS)
        fix = near or f"Give {ALWAYS} or the ISO 10383 code of an exchange such as XNYS"
        raise section.fault("calendar", "no such calendar", value=name, fix=fix)
    return name


def _retention(section: Section) -> int:
    text = section.text("conformed_retention", DEFAULT_RETENTION)
    try:
        retention_ns = parse_duration(text, parameter="conformed_retention")
    except SeamlineError as error:
        raise section.fault(
            "conformed_retention", error.message, value=text, fix="Give a duration: 14d, 36h"
        ) from None
    if retention_ns < RETENTION_MIN_NS:
        raise section.fault(
            "conformed_retention", "shorter than 1m", value=text, fix="Give 1m or more"
        )
    return retention_ns


def _formed(section: Section, name: str, form: re.Pattern[str], default: str, wanted: str) -> str:
    value = section.text(name, default)
    if not form.fullmatch(value):
        raise section.fault(name, "not of a known form", value=value, fix=f"Give {wanted}")
    return value


def _backfill(
    section: Section, kind: str, interval_ns: int, block_rows: int
) -> BackfillSource | None:
    own = section.section("backfill")
    if own is None:
        return None
    source = BackfillSource(
        source=_connector(own, "source", "backfill", kind, interval_ns),
        mode=own.choice("mode", BACKFILL_MODES, "background"),
        window_bars=own.whole(
            "window_bars", 1, WINDOW_BARS_MAX, DEFAULT_WINDOW_BLOCKS * block_rows
        ),
    )
    own.done()
    return source


def _live(section: Section, kind: str, interval_ns: int) -> LiveFeed | None:
    own = section.section("live")
    if own is None:
        return None
    feed = LiveFeed(
        feed=_connector(own, "feed", "live", kind, interval_ns),
        max_lag_ns=own.scaled("max_lag_seconds", NS_PER_S, 1, SECONDS_MAX, DEFAULT_LAG_NS),
    )
    own.done()
    return feed


def _connector(section: Section, name: str, use: sources.Use, kind: str, interval_ns: int) -> str:
    value = section.text(name)
    found = sources.connectors().get(value)
    fitting = f"Known: {sources.known(use)}"
    if found is None:
        near = suggestion(value, sources.connectors())
        raise section.fault(name, "no such connector", value=value, fix=near or fitting)
    if found.uses is not None and use not in found.uses:
        raise section.fault(name, f"does not serve {use}", value=value, fix=fitting)
    if found.kinds is not None and kind not in found.kinds:
        raise section.fault(name, f"does not deliver {kind}", value=value, fix=fitting)
    if found.interval_ns is not None and found.interval_ns != interval_ns:
        raise section.fault(
            name,
            f"delivers {format_duration(found.interval_ns)} bars, the preset has "
            f"{format_duration(interval_ns)}",
            value=value,
            fix="Derive the preset from one of that interval",
        )
    return value


def _check_derived(section: Section, preset: Preset, parent: Preset, root: Preset) -> None:
    for name in ("backfill", "live"):
        if section.has(name):
            raise section.fault(
                name, "a derived preset has no sources", fix="Remove it; the parent's are used"
            )
    if preset.kind != "ohlcv" or parent.kind != "ohlcv":
        raise section.fault(
            "derive_from",
            f"only bars are rolled up from bars: {parent.id} holds {parent.kind}, "
            f"{preset.id} {preset.kind}",
            value=parent.id,
            fix="Name a parent of kind ohlcv",
        )
    if preset.interval_ns == parent.interval_ns or preset.interval_ns % parent.interval_ns:
        raise section.fault(
            "derive_from",
            f"{format_duration(preset.interval_ns)} is not a multiple of "
            f"{format_duration(parent.interval_ns)}",
            value=parent.id,
            fix="Use an interval that is 2 or more times the parent's",
        )
    if root.block_ns % preset.interval_ns and preset.interval_ns % root.block_ns:
        ratio = preset.interval_ns // root.interval_ns
        raise section.fault(
            "derive_from",
            f"a window of {format_duration(preset.interval_ns)} neither divides a block of "
            f"{root.id}, {root.block_rows} bars, nor is whole blocks",
            value=parent.id,
            fix=f"Give {root.id} block_rows that divide {ratio} or are a multiple of it",
        )
    if parent.calendar != ALWAYS:
        raise section.fault(
            "derive_from",
            f"a worker rolls up windows of the clock, {parent.id} has sessions of "
            f"{parent.calendar}",
            value=parent.id,
            fix="Remove the preset; readers roll sessions up with "
            "seamline.streams.kernel.rollup_windows",
        )
    has = f"{parent.id} has"
    for name, own, of_parent, message in (
        ("grid_origin", preset.grid_origin_ns, parent.grid_origin_ns, f"{has} another"),
        (
            "stabilization_bars",
            preset.stabilization_bars,
            parent.stabilization_bars,
            f"{has} {parent.stabilization_bars}",
        ),
        ("partitions", preset.partitions, parent.partitions, f"{has} {parent.partitions}"),
        ("calendar", preset.calendar, parent.calendar, f"{has} {parent.calendar}"),
    ):
        if own != of_parent:
            raise section.fault(
                name, message, value=own, fix="Remove it; a derived preset takes the parent's"
            )
