"""The fingerprint of a dataset range: a tree from the days of each symbol to the whole.

Decides: what two datasets compare when they cannot hold each other's bars. A leaf is the
`block_digest` of one symbol's rows of one UTC day; a symbol is the digest of its days, the range
that of its symbols. Invariants: the tree depends on `(symbol, open_time, content)` alone, so data
built live and data backfilled are equal, whatever their blocks, chunks, order, sources and
revisions; a symbol or a day without rows is not in it; a tree that was read adds up.
Must not know: presets, intervals, where rows are kept.

Bytes of a symbol: tag, symbol (u32 length, UTF-8), number of days (u64), then for each day in order
its number since 1970-01-01 (i64), its digest, its rows (u64). Bytes of the range: tag, an empty
key (u32 0), number of symbols (u64), then for each in the order of its UTF-8 the symbol (u32
length, UTF-8), its digest, its rows (u64). Little-endian; `fingerprint` has the bytes of a leaf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import I8, Bool
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import (
    DIGEST_BYTES,
    Bars,
    CanonicalRows,
    begin_digest,
    strictly_increasing,
)
from seamline.schemas.times import DAY_NS, INT64_MAX
from seamline.schemas.wire import symbol_bytes_of

FORMAT: Final = "seamline.fingerprint.1"
# Rows made canonical at a time: they stay in the processor's cache until they are hashed.
TILE_ROWS: Final = 16_384
MIXED_ROWS: Final = 262_144
_SYMBOL_TAG: Final = b"seamline.tree.symbol.1\0"
_RANGE_TAG: Final = b"seamline.tree.range.1\0"
_DAY = struct.Struct("<q32sQ")
_LENGTH = struct.Struct("<I")
_TOTAL = struct.Struct("<32sQ")
_EPOCH: Final = date(1970, 1, 1).toordinal()
_NARROW_SYMBOLS: Final = 2**16


class DayLeaf(NamedTuple):
    """One symbol's rows of one UTC day; `day` counts from 1970-01-01."""

    day: int
    rows: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SymbolTree:
    """A symbol and its days, in order."""

    symbol: str
    rows: int
    digest: bytes
    days: tuple[DayLeaf, ...]


@dataclass(frozen=True, slots=True)
class FingerprintTree:
    """The whole: `digest` is the fingerprint of the range. Symbols in the order of their UTF-8."""

    rows: int
    digest: bytes
    symbols: tuple[SymbolTree, ...]


def tree_of(parts: Iterable[tuple[str, Bars]]) -> FingerprintTree:
    """The tree of bars that come in any pieces: blocks, chunks, a whole symbol at once.

    Pieces whose rows are in time order and do not overlap are copied once. All pieces are held
    until the end: of more than fits, make trees of whole days or symbols and take their `union`.
    Raises UsageError when an open_time of a symbol occurs twice.
    """
    found: dict[str, list[Bars]] = {}
    for symbol, columns in parts:
        if len(columns):
            found.setdefault(symbol, []).append(columns)
    return _tree(_symbol(symbol, _days(symbol, pieces)) for symbol, pieces in found.items())


def tree_of_rows(
    symbols: Sequence[str], sid: NDArray[np.integer[Any]], columns: Bars
) -> FingerprintTree:
    """As `tree_of`, of rows of many symbols in any order; row i is of `symbols[sid[i]]`.

    Rows that go by symbol, or by time over all symbols, are copied once.
    """
    if len(sid) != len(columns):
        raise UsageError("one symbol for each row", parameter="sid", value=len(sid))
    if len(set(symbols)) != len(symbols):
        raise UsageError("a symbol twice", parameter="symbols", value=symbols)
    if len(sid) == 0:
        return _tree([])
    if sid.min() < 0 or sid.max() >= len(symbols):
        raise UsageError("no such symbol number", parameter="sid", value=(sid.min(), sid.max()))
    if not (sid[1:] < sid[:-1]).any():
        ends = np.cumsum(np.bincount(sid, minlength=len(symbols))).tolist()
        spans = zip(symbols, pairwise([0, *ends]), strict=True)
        return tree_of((symbol, columns.take(slice(*span))) for symbol, span in spans)
    found: dict[int, list[DayLeaf]] = {}
    for number, leaf in _mixed_days(symbols, sid, columns):
        found.setdefault(number, []).append(leaf)
    return _tree(_symbol(symbols[number], days) for number, days in found.items())


def union(trees: Iterable[FingerprintTree]) -> FingerprintTree:
    """The tree of all rows of all trees, say one of each partition or of each month.

    Raises UsageError when two of them have rows of one symbol and day.
    """
    found: dict[str, dict[int, DayLeaf]] = {}
    for tree in trees:
        for branch in tree.symbols:
            days = found.setdefault(branch.symbol, {})
            for leaf in branch.days:
                if days.setdefault(leaf.day, leaf) is not leaf:
                    raise UsageError(
                        f"two trees have rows of {branch.symbol}",
                        parameter="trees",
                        value=day_text(leaf.day),
                        fix="Cut datasets between days, or make one tree of all rows",
                    )
    return _tree(_symbol(symbol, days.values()) for symbol, days in found.items())


def day_text(day: int) -> str:
    """`YYYY-MM-DD` of a day's number."""
    return date.fromordinal(_EPOCH + day).isoformat()


def tree_value(tree: FingerprintTree) -> dict[str, Any]:
    """The tree as JSON holds it: `{format, digest, rows, symbols: {symbol: {digest, rows, days:
    {YYYY-MM-DD: [rows, digest]}}}}`, digests as 64 hex digits."""
    return {
        "format": FORMAT,
        "digest": tree.digest.hex(),
        "rows": tree.rows,
        "symbols": {
            branch.symbol: {
                "digest": branch.digest.hex(),
                "rows": branch.rows,
                "days": {
                    day_text(leaf.day): [leaf.rows, leaf.digest.hex()] for leaf in branch.days
                },
            }
            for branch in tree.symbols
        },
    }


def tree_of_value(value: object) -> FingerprintTree:
    """The tree that `tree_value` wrote. Raises ContractError for any other value, and for a tree
    whose digests or counts do not follow from its days."""
    top = _fields(value, "tree", {"format", "digest", "rows", "symbols"})
    if top["format"] != FORMAT:
        raise ContractError("not this format", parameter="format", value=top["format"], fix=FORMAT)
    symbols = top["symbols"]
    if not isinstance(symbols, Mapping):
        raise ContractError("not an object", parameter="symbols", value=symbols)
    tree = _tree(_symbol_of_value(symbol, branch) for symbol, branch in symbols.items())
    _same_total(top, "tree", tree.rows, tree.digest)
    return tree


def _days(symbol: str, parts: list[Bars]) -> list[DayLeaf]:
    """The leaves of one symbol, of parts that are not empty."""
    encoded = symbol_bytes_of(symbol)
    parts = sorted(parts, key=lambda part: int(part.open_time_ns[0]))
    found = _days_in_order(encoded, parts)
    if found is not None:
        return found
    rows = CanonicalRows(sum(map(len, parts)), [(part, slice(None)) for part in parts])
    rows.sort()
    if not strictly_increasing(rows.times):
        raise UsageError("a time occurs twice", parameter="open_time_ns", value=symbol)
    return list(_leaves(encoded, rows))


def _days_in_order(symbol: bytes, parts: list[Bars]) -> list[DayLeaf] | None:
    """None where the rows of the parts, one after the other, turn out not to be in time order."""
    found: list[DayLeaf] = []
    last_ns = None
    for before, after in pairwise(parts):
        if before.open_time_ns[-1] >= after.open_time_ns[0]:
            return None
    for tile in _tiles(parts):
        rows = CanonicalRows(sum(chosen.stop - chosen.start for _, chosen in tile), tile)
        times = rows.times
        if not strictly_increasing(times) or (last_ns is not None and times[0] <= last_ns):
            return None
        last_ns = int(times[-1])
        found.extend(_leaves(symbol, rows))
    return found


def _leaves(symbol: bytes, rows: CanonicalRows) -> Iterator[DayLeaf]:
    days = rows.times // DAY_NS
    for start, end in _runs(days[1:] != days[:-1]):
        yield DayLeaf(int(days[start]), end - start, rows.digest(symbol, start, end))


def _tiles(parts: list[Bars]) -> Iterator[list[tuple[Bars, slice]]]:
    """Spans of parts, together about TILE_ROWS; where the rows are in time order, a day is never in
    two tiles."""
    tile: list[tuple[Bars, slice]] = []
    rows, last_ns = 0, 0
    for part in parts:
        at = 0
        while at < len(part):
            if rows >= TILE_ROWS and part.open_time_ns[at] > last_ns:
                yield tile
                tile, rows = [], 0
            end = len(part)
            if rows + end - at >= TILE_ROWS:
                wanted = at + max(TILE_ROWS - rows, 1)
                end, last_ns = _whole_days(part.open_time_ns, wanted)
                end = max(end, at + 1)  # rows out of order have any end
            tile.append((part, slice(at, end)))
            rows += end - at
            at = end
    yield tile


def _mixed_days(
    symbols: Sequence[str], sid: NDArray[np.integer[Any]], columns: Bars
) -> Iterator[tuple[int, DayLeaf]]:
    """The leaves of rows whose symbols are mixed: all rows of some days at a time where the rows go
    by time, else all rows at once."""
    encoded = [symbol_bytes_of(symbol) for symbol in symbols]
    numbers = sid.astype(np.uint16 if len(symbols) <= _NARROW_SYMBOLS else np.int64)
    by_time = not (columns.open_time_ns[1:] < columns.open_time_ns[:-1]).any()
    at = 0
    while at < len(sid):
        end = _whole_days(columns.open_time_ns, at + MIXED_ROWS)[0] if by_time else len(sid)
        chunk, of_chunk = columns.take(slice(at, end)), numbers[at:end]
        at = end
        if by_time:
            order = np.argsort(of_chunk, kind="stable")
        else:
            order = np.lexsort((chunk.open_time_ns, of_chunk))
        times, of_row = chunk.open_time_ns[order], of_chunk[order]
        other = of_row[1:] != of_row[:-1]
        twice = np.flatnonzero(~other & (times[1:] == times[:-1]))
        if len(twice):
            symbol = symbols[of_row[twice[0]]]
            raise UsageError("a time occurs twice", parameter="open_time_ns", value=symbol)
        days = times // DAY_NS
        for tile in _together(_runs(other | (days[1:] != days[:-1]))):
            first, last = tile[0][0], tile[-1][1]
            rows = CanonicalRows(last - first, [(chunk, order[first:last])])
            for start, stop in tile:
                number = int(of_row[start])
                digest = rows.digest(encoded[number], start - first, stop - first)
                yield number, DayLeaf(int(days[start]), stop - start, digest)


def _together(runs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Neighbouring runs, together about TILE_ROWS."""
    tile: list[tuple[int, int]] = []
    for run in runs:
        tile.append(run)
        if run[1] - tile[0][0] >= TILE_ROWS:
            yield tile
            tile = []
    if tile:
        yield tile


def _whole_days(times: I8, wanted: int) -> tuple[int, int]:
    """The end of the day in which the first `wanted` rows end: row and last nanosecond."""
    last = int(times[min(wanted, len(times)) - 1])
    last_ns = min((last // DAY_NS + 1) * DAY_NS - 1, INT64_MAX)
    return int(np.searchsorted(times, last_ns, side="right")), last_ns


def _runs(cuts: Bool) -> Iterable[tuple[int, int]]:
    """Spans of rows, where `cuts[i]` says that a new one begins with row i + 1."""
    return pairwise([0, *(np.flatnonzero(cuts) + 1).tolist(), len(cuts) + 1])


def _symbol(symbol: str, days: Iterable[DayLeaf]) -> SymbolTree:
    leaves = tuple(sorted(days))
    sha = begin_digest(_SYMBOL_TAG, symbol_bytes_of(symbol), len(leaves))
    sha.update(b"".join(_DAY.pack(day, digest, rows) for day, rows, digest in leaves))
    return SymbolTree(symbol, sum(leaf.rows for leaf in leaves), sha.digest(), leaves)


def _tree(branches: Iterable[SymbolTree]) -> FingerprintTree:
    keyed = sorted((symbol_bytes_of(branch.symbol), branch) for branch in branches)
    sha = begin_digest(_RANGE_TAG, b"", len(keyed))
    for symbol, branch in keyed:
        sha.update(_LENGTH.pack(len(symbol)) + symbol + _TOTAL.pack(branch.digest, branch.rows))
    symbols = tuple(branch for _, branch in keyed)
    return FingerprintTree(sum(branch.rows for branch in symbols), sha.digest(), symbols)


def _symbol_of_value(symbol: object, value: object) -> SymbolTree:
    if not isinstance(symbol, str):
        raise ContractError("not a symbol", parameter="symbols", value=symbol)
    fields = _fields(value, symbol, {"digest", "rows", "days"})
    days = fields["days"]
    if not isinstance(days, Mapping) or not days:
        raise ContractError("a symbol has days", parameter=f"{symbol}.days", value=days)
    leaves = [_leaf_of_value(symbol, text, leaf) for text, leaf in days.items()]
    branch = _symbol(symbol, leaves)
    _same_total(fields, symbol, branch.rows, branch.digest)
    return branch


def _leaf_of_value(symbol: str, text: object, value: object) -> DayLeaf:
    try:
        day = date.fromisoformat(str(text)).toordinal() - _EPOCH
        rows, digest = value if isinstance(value, list | tuple) else ()
        found = bytes.fromhex(digest)
    except (ValueError, TypeError):
        raise ContractError("not a day", parameter=f"{symbol}.{text}", value=value) from None
    whole = isinstance(rows, int) and not isinstance(rows, bool) and 0 < rows <= INT64_MAX
    if not whole or len(found) != DIGEST_BYTES or day_text(day) != text:
        raise ContractError("not a day", parameter=f"{symbol}.{text}", value=value)
    return DayLeaf(day, rows, found)


def _fields(value: object, parameter: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.keys() != names:
        raise ContractError(
            "not the fields of a tree", parameter=parameter, value=value, fix=str(sorted(names))
        )
    return value


def _same_total(fields: Mapping[str, Any], parameter: str, rows: int, digest: bytes) -> None:
    """Raise ContractError unless what was stated is what the days give."""
    for name, found in (("rows", rows), ("digest", digest.hex())):
        if fields[name] != found or isinstance(fields[name], bool):
            raise ContractError(
                f"the days give {found}", parameter=f"{parameter}.{name}", value=fields[name]
            )
