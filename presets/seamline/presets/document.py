"""A YAML file as sections whose every key and value knows its line.

Decides: what is well-formed (one document, mappings with unique text keys) and how a fault is told:
file, line, key, fix. Invariants: no value is taken without its type and its limits; what was not
taken is refused as unknown. Must not know: what a preset is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from seamline.schemas.errors import UsageError

FILE_PARAMETER: Final = "presets_file"
TEXT_MAX: Final = 1_048_576
_INTEGER: Final = re.compile(r"[-+]?\d+(_\d+)*", re.ASCII)
_NUMBER: Final = re.compile(r"[-+]?\d+(_\d+)*(\.\d+)?", re.ASCII)
# Far beyond every limit; Python reads no number of more than 4,300 digits, and exactly none here.
_NUMBER_CHARS_MAX: Final = 100
_STRING_TAG: Final = "tag:yaml.org,2002:str"
_TYPES: Final = {
    "tag:yaml.org,2002:str": "a text",
    "tag:yaml.org,2002:int": "a whole number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "a time",
    "tag:yaml.org,2002:seq": "a list",
    "tag:yaml.org,2002:map": "a mapping",
}


@dataclass(slots=True)
class Section:
    """One mapping of the file. `path` is the dotted key it stands under, "" for the whole file."""

    file: str
    path: str
    line: int
    entries: Mapping[str, tuple[int, Node]]
    _taken: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        return name in self.entries

    def fault(
        self, name: str, message: str, *, value: object = None, fix: str | None = None
    ) -> UsageError:
        """The error for key `name` of this section; its line is the key's, else the section's."""
        line, node = self.entries.get(name, (self.line, None))
        if value is None and isinstance(node, ScalarNode):
            value = node.value
        return fault(self.file, line, self.key(name), message, value=value, fix=fix)

    def text(self, name: str, default: str | None = None) -> str:
        """A text. Raises UsageError for another type, and without a default for a missing key."""
        node = self._take(name, required=default is None)
        if node is None:
            assert default is not None
            return default
        if not isinstance(node, ScalarNode) or node.tag != _STRING_TAG:
            raise self._wrong_type(name, node, "a text (in quotes)")
        return str(node.value)

    def choice(self, name: str, known: Collection[str], default: str | None = None) -> str:
        """A text that is one of `known`."""
        value = self.text(name, default)
        if value not in known:
            fix = suggestion(value, known) or f"One of {', '.join(known)}"
            raise self.fault(name, "not known", value=value, fix=fix)
        return value

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number of `low` to `high`, inclusive."""
        node = self._take(name, required=default is None)
        if node is None:
            assert default is not None
            return default
        if not _is_number(node, _INTEGER):
            raise self._wrong_type(name, node, "a whole number without quotes")
        value = int(node.value.replace("_", ""))
        if not low <= value <= high:
            raise self.fault(
                name, f"outside {low} to {high}", value=value, fix=f"Give {low} to {high}"
            )
        return value

    def scaled(self, name: str, unit: int, low: int, high: int, default: int | None = None) -> int:
        """A number times `unit`, exact; the number is within `low` and `high`, inclusive."""
        node = self._take(name, required=default is None)
        if node is None:
            assert default is not None
            return default
        if not _is_number(node, _NUMBER):
            raise self._wrong_type(name, node, "a number without quotes; its unit is in the key")
        value = Decimal(node.value.replace("_", ""))
        if not low <= value <= high:
            raise self.fault(
                name, f"outside {low} to {high}", value=str(value), fix=f"Give {low} to {high}"
            )
        whole = value * unit
        if whole != int(whole):
            raise self.fault(name, "finer than the clock", value=str(value))
        return int(whole)

    def texts(self, name: str, known: Sequence[str], default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of different texts out of `known`, at least one."""
        node = self._take(name, required=False)
        if node is None:
            return default
        if not isinstance(node, SequenceNode):
            raise self._wrong_type(name, node, "a list")
        values: list[str] = []
        for item in node.value:
            value = str(item.value) if isinstance(item, ScalarNode) else "a list or a mapping"
            if value not in known or value in values:
                what = "stands twice" if value in values else "not known"
                raise fault(
                    self.file,
                    item.start_mark.line + 1,
                    self.key(name),
                    what,
                    value=value,
                    fix=f"Each at most once of {', '.join(known)}",
                )
            values.append(value)
        if not values:
            raise self.fault(name, "an empty list", value=[], fix=f"Some of {', '.join(known)}")
        return tuple(values)

    def section(self, name: str) -> Section | None:
        """The mapping under `name`, None when the key is missing."""
        node = self._take(name, required=False)
        if node is None:
            return None
        return _section(self.file, self.key(name), node)

    def done(self) -> None:
        """Refuse what nobody took. Raises UsageError for the first such key."""
        for name in self.entries:
            if name not in self._taken:
                known = sorted(self._taken)
                fix = suggestion(name, known) or f"Known here: {', '.join(known)}"
                raise self.fault(name, "unknown key", fix=fix)

    def _take(self, name: str, *, required: bool) -> Node | None:
        self._taken.add(name)
        if name in self.entries:
            return self.entries[name][1]
        if required:
            raise self.fault(name, "missing", fix=f"Add {name}")
        return None

    def _wrong_type(self, name: str, node: Node, wanted: str) -> UsageError:
        found = _TYPES.get(node.tag, "something else")
        value = node.value if isinstance(node, ScalarNode) else None
        return self.fault(
            name, f"{found} where {wanted} is needed", value=value, fix=f"Give {wanted}"
        )


def parse(text: str, file: str) -> Section:
    """The file's top mapping. Raises UsageError when it is not YAML or not a mapping."""
    if len(text) > TEXT_MAX:
        raise not_readable(file, f"longer than {TEXT_MAX} characters", line=None)
    try:
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise not_readable(file, f"not YAML: {error.problem or error.context}", line=line) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise not_readable(file, f"not YAML: {error}", line=None) from None
    if node is None:
        raise not_readable(file, "empty", line=1)
    if not isinstance(node, MappingNode):
        raise not_readable(file, "not a mapping", line=node.start_mark.line + 1)
    return _section(file, "", node)


def fault(
    file: str,
    line: int,
    key: str,
    message: str,
    *,
    value: object = None,
    fix: str | None = None,
) -> UsageError:
    """A UsageError with `file`, `line` (from 1) and `key` as fields."""
    return UsageError(
        f"{message} ({file} line {line})",
        parameter=key,
        value=value,
        fix=fix,
        file=file,
        line=line,
        key=key,
    )


def not_readable(file: str, message: str, *, line: int | None) -> UsageError:
    """A UsageError for the file as a whole."""
    at = "" if line is None else f" (line {line})"
    return UsageError(
        message + at,
        parameter=FILE_PARAMETER,
        value=file,
        fix='Give UTF-8 YAML that begins with "version: 1" and "data_presets:"',
        file=file,
        line=line,
        key=None,
    )


def suggestion(name: str, known: Collection[str]) -> str | None:
    """`Did you mean …?` for near matches, None without any."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else None


def _section(file: str, path: str, node: Node) -> Section:
    line = node.start_mark.line + 1
    if not isinstance(node, MappingNode):
        found = _TYPES.get(node.tag, "something else")
        raise fault(file, line, path, f"{found} where a mapping is needed", fix="Give key: value")
    entries: dict[str, tuple[int, Node]] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise fault(file, key_line, path, "a key that is not a text", fix="Give key: value")
        name = str(key_node.value)
        if name in entries:
            raise fault(
                file,
                key_line,
                f"{path}.{name}" if path else name,
                f"stands twice, first in line {entries[name][0]}",
                fix="Remove one",
            )
        entries[name] = (key_line, value_node)
    return Section(file, path, line, entries)


def _is_number(node: Node, form: re.Pattern[str]) -> bool:
    # A quoted number is a text, and YAML 1.1 would read 1:30 as 90 and 0x10 as 16.
    plain = isinstance(node, ScalarNode) and node.style is None and node.tag != _STRING_TAG
    return plain and len(node.value) <= _NUMBER_CHARS_MAX and form.fullmatch(node.value) is not None
