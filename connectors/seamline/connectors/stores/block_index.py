"""Where each block of a storage partition lies: a local SQLite file that can be rebuilt from
`storage`.

Decides: the table and when it counts. Invariants: an entry is written only for a committed record;
entries and the offset the index is good for commit together; a file of another topic or with a
later offset than the topic has is emptied; a broken file is made anew, one that cannot be read or
written now (a full disk) is left alone and told as a TransportError. Must not know: what is in a
block beyond the columns of the table.

Staged entries become rows with their offsets in `commit`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from seamline.schemas.errors import TransportError
from seamline.streams.kernel.block_index import Entry

_SCHEMA = """
CREATE TABLE IF NOT EXISTS block (
    symbol TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    storage_offset INTEGER NOT NULL,
    digest BLOB NOT NULL,
    rows INTEGER NOT NULL,
    claim_start_ns INTEGER NOT NULL,
    claim_end_ns INTEGER NOT NULL,
    PRIMARY KEY (symbol, start_ns)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS good_for (
    one INTEGER PRIMARY KEY CHECK (one = 1), topic TEXT NOT NULL, next_offset INTEGER NOT NULL
);
"""
_FORMAT = 1


class SqliteIndex:
    """`streams.kernel.block_index.BlockIndex` in a file. One thread at a time."""

    def __init__(self, path: Path, topic: str) -> None:
        """Opens or makes the file; one that is broken or of another topic starts empty.

        Every method raises TransportError when the file cannot be read or written.
        """
        self._path = path
        self._topic = topic
        self._staged: dict[tuple[str, int], Entry] = {}
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._remove()
                self._open()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A fault of the file as one of the world, with the place and what to do. A broken file is
        removed: the next index of this partition is made anew."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if _is_broken(error):
                self._remove()
            raise TransportError(
                f"the block index cannot be used ({error})",
                parameter="dir",
                value=str(self._path),
                fix="Free disk space there, or start the worker with another --dir; nothing is "
                "lost, the index is a copy",
            ) from error

    def _remove(self) -> None:
        # Broken by a power cut or by hand: everything in it is in the topic too.
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _FORMAT):
                self._db.executescript("DROP TABLE IF EXISTS block; DROP TABLE IF EXISTS good_for;")
            self._db.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                f"PRAGMA user_version={_FORMAT};" + _SCHEMA
            )
            row = self._db.execute("SELECT topic, next_offset FROM good_for").fetchone()
            if row is None or row[0] != self._topic:
                with self._transaction():
                    self._forget()
        except BaseException:
            self._db.close()
            raise

    def _forget(self) -> None:
        self._db.execute("DELETE FROM block")
        self._db.execute("DELETE FROM good_for")
        self._db.execute("INSERT INTO good_for VALUES (1, ?, 0)", (self._topic,))

    @property
    def next_offset(self) -> int:
        """Every committed record before it is in the index."""
        with self._told():
            return int(self._db.execute("SELECT next_offset FROM good_for").fetchone()[0])

    def clear(self) -> None:
        """Forget everything; the index is good for offset 0."""
        with self._told(), self._transaction():
            self._forget()

    def load(self, entries: Iterable[Entry], next_offset: int) -> None:
        """Take committed records over, in offset order, in one transaction."""
        rows = (
            (e.symbol, e.start_ns, e.offset, e.digest, e.rows, e.claim_start_ns, e.claim_end_ns)
            for e in entries
        )
        with self._told(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("UPDATE good_for SET next_offset = ?", (next_offset,))

    def stage(self, entry: Entry) -> None:
        """An entry of the open transaction."""
        self._staged[entry.symbol, entry.start_ns] = entry

    def commit(self, staged: Sequence[Entry], offsets: Sequence[int]) -> None:
        """The transaction with `staged` is committed at these offsets."""
        if not staged:
            return
        placed = (
            Entry(e.symbol, e.start_ns, e.digest, e.rows, e.claim_start_ns, e.claim_end_ns, offset)
            for e, offset in zip(staged, offsets, strict=True)
        )
        self.load(placed, max(offsets) + 1)
        for entry in staged:
            if self._staged.get((entry.symbol, entry.start_ns)) is entry:
                del self._staged[entry.symbol, entry.start_ns]

    def get(self, symbol: str, start_ns: int) -> Entry | None:
        """The newest version of a block."""
        staged = self._staged.get((symbol, start_ns))
        if staged is not None:
            return staged
        with self._told():
            row = self._db.execute(
                "SELECT * FROM block WHERE symbol = ? AND start_ns = ?", (symbol, start_ns)
            ).fetchone()
        return None if row is None else _entry(row)

    def of_symbol(
        self, symbol: str, start_ns: int | None = None, end_ns: int | None = None
    ) -> list[Entry]:
        """The blocks of a symbol that start in [start_ns, end_ns), in time order."""
        low = -(2**63) if start_ns is None else start_ns
        high = 2**63 - 1 if end_ns is None else end_ns
        with self._told():
            rows = self._db.execute(
                "SELECT * FROM block WHERE symbol = ? AND start_ns >= ? AND start_ns < ?",
                (symbol, low, high),
            ).fetchall()
        found = {int(row[1]): _entry(row) for row in rows}
        for (name, start), entry in self._staged.items():
            if name == symbol and low <= start < high:
                found[start] = entry
        return [found[start] for start in sorted(found)]

    def newest(self) -> Entry | None:
        """The committed entry with the greatest offset."""
        with self._told():
            row = self._db.execute(
                "SELECT * FROM block ORDER BY storage_offset DESC LIMIT 1"
            ).fetchone()
        return None if row is None else _entry(row)

    def close(self) -> None:
        self._db.close()


def _entry(row: tuple[str, int, int, bytes, int, int, int]) -> Entry:
    symbol, start_ns, offset, digest, rows, claim_start_ns, claim_end_ns = row
    return Entry(symbol, start_ns, digest, rows, claim_start_ns, claim_end_ns, offset)


def _is_broken(error: BaseException) -> bool:
    """Not a database, or a malformed one; a full disk is an OperationalError and no fault of it."""
    return type(error) is sqlite3.DatabaseError
