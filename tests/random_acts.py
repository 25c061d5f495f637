"""A random life of a log writer: new bars, holes, late and changed values, seals, a true ledger."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from log_writer import MINUTE, START, LogWriter


@dataclass(slots=True)
class RandomActs:
    """The same seed gives the same life."""

    writer: LogWriter
    symbols: Sequence[str]
    seed: int
    rng: random.Random = field(init=False)
    newest: dict[str, int] = field(init=False)
    gaps: dict[str, set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.newest = dict.fromkeys(self.symbols, -1)
        self.gaps = {symbol: set() for symbol in self.symbols}

    def transaction(self) -> None:
        for symbol in self.symbols:
            self._act(symbol)
        self.writer.commit()

    def seal_all(self) -> None:
        """What readers may be told late is sealed in the end."""
        for symbol in self.symbols:
            self._seal(symbol, self.newest[symbol] + 1)
        self.writer.commit()

    def _act(self, symbol: str) -> None:
        rng, writer = self.rng, self.writer
        for _ in range(rng.randrange(3)):
            self.newest[symbol] += rng.choice((1, 1, 1, 1, 3))
            writer.bar(symbol, self.newest[symbol], optional=rng.random() < 0.7)
        present = sorted((t - START) // MINUTE for t in writer.state(symbol).rows)
        if not present:
            return
        kind = rng.random()
        if kind < 0.2:
            writer.bar(symbol, rng.choice(present), salt=rng.randrange(1, 4))
        elif kind < 0.3:
            writer.complete(symbol, rng.choice(present))
        elif kind < 0.4:
            writer.confirm(symbol, rng.choice(present))
        elif kind < 0.5:
            writer.bar(symbol, rng.randrange(0, self.newest[symbol] + 1), salt=9)
        frontier = (writer.state(symbol).frontier - START) // MINUTE
        target = frontier
        if rng.random() < 0.4:
            target = max(frontier, self.newest[symbol] - rng.randrange(1, 6))
        if target > 0:  # what changed below the frontier is in storage in the same transaction
            self._seal(symbol, target)

    def _seal(self, symbol: str, frontier: int) -> None:
        self.writer.seal(symbol, frontier)
        present = {(t - START) // MINUTE for t in self.writer.state(symbol).rows}
        if not present:
            return
        held = self.gaps[symbol]
        missing = {cell for cell in range(min(present), max(frontier, 0)) if cell not in present}
        for cell in held - missing:
            self.writer.gap(symbol, cell, None)
        for cell in missing - held:
            self.writer.gap(symbol, cell, cell + 1, "our_loss")
        for cell in sorted(held & missing):  # causes change, and change back
            if self.rng.random() < 0.3:
                self.writer.gap(symbol, cell, cell + 1, self.rng.choice(("our_loss", "late")))
        self.gaps[symbol] = missing
