"""A page of commands with the output that they gave: parsed, run again, compared, written.

Decides: what a page of this kind looks like (below), and when two outputs are the same: when they
differ in nothing but numbers, hashes, times and space. Invariants: only `seamline` commands run; a
command that ends with another status than the page says is a difference. Must not know: what a
command does, where a world comes from.

    <!-- scene: NAME WORDS... -->      something that happens outside of the commands

    ```console
    $ seamline schema list             a command
    ...                                what it printed, stdout and stderr
    [exit 1]                           where that is not 0
    ```
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND_S: Final = 180
WIDTH: Final = "110"
ACTOR: Final = "ann"
_PART: Final = re.compile(r"<!-- scene: (?P<scene>.+?) -->|```console\n(?P<block>.*?)```", re.S)
_PROMPT: Final = "$ "
_EXIT: Final = re.compile(r"\[exit (\d+)\]")
_HASH: Final = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{6,64}…?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?")
_NUMBER: Final = re.compile(r"\d[\d,._]*")
_RULERS: Final = re.compile(r"[\s─━┃│┏┓┗┛┡┩└┘├┤┬┴┼╇╈]+")


@dataclass(frozen=True, slots=True)
class Command:
    """`words` after `seamline`; what it printed and its exit status."""

    words: str
    output: str
    status: int

    def shown(self) -> str:
        ending = f"[exit {self.status}]\n" if self.status else ""
        return f"{_PROMPT}seamline {self.words}\n{self.output}{ending}"

    def same(self, other: Command) -> bool:
        return self.status == other.status and normal(self.output) == normal(other.output)


Part = str | list[Command]  # the words of a scene, or the commands of a block


def parts(text: str) -> Iterator[Part]:
    """The scenes and the blocks of commands of a page, in order."""
    for found in _PART.finditer(text):
        yield found["scene"] if found["block"] is None else list(_commands(found["block"]))


def _commands(block: str) -> Iterator[Command]:
    for piece in re.split(r"^\$ ", block, flags=re.M)[1:]:
        line, _, output = piece.partition("\n")
        program, _, words = line.partition(" ")
        assert program == "seamline", f"not a seamline command: {line}"
        ending = _EXIT.search(output)
        status = int(ending[1]) if ending else 0
        yield Command(words, output[: ending.start()] if ending else output, status)


def run(command: Command, environment: Mapping[str, str], directory: Path) -> Command:
    """The command with what it prints and how it ends now."""
    done = subprocess.run(
        [sys.executable, "-m", "seamline.sdk.cli", *shlex.split(command.words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, "COLUMNS": WIDTH, "NO_COLOR": "1", "SEAMLINE_ACTOR": ACTOR},
        cwd=directory,
        timeout=COMMAND_S,
        check=False,
    )
    return Command(command.words, done.stdout.decode(), done.returncode)


def replay(
    text: str, scene: Callable[[str], None], run_one: Callable[[Command], Command]
) -> tuple[str, list[str]]:
    """The page with the outputs of now, and one sentence for each command that differs."""
    differs: list[str] = []
    pieces: list[str] = []
    at = 0
    for found in _PART.finditer(text):
        if found["block"] is None:
            scene(found["scene"])
            continue
        said = []
        for command in _commands(found["block"]):
            now = run_one(command)
            said.append(now.shown())
            if not command.same(now):
                differs.append(f"the page has\n{command.shown()}\nand now it is\n{now.shown()}")
        pieces += [text[at : found.start()], "```console\n", *said, "```"]
        at = found.end()
    return "".join([*pieces, text[at:]]), differs


def normal(output: str) -> str:
    """An output without what differs from run to run."""
    for pattern, word in ((_TIME, "T"), (_HASH, "H"), (_NUMBER, "N")):
        output = pattern.sub(word, output)
    return _RULERS.sub(" ", output).strip()
