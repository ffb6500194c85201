"""YAML that remembers where everything was written.

The text goes through PyYAML's compose step only: nodes carry their line, and the values are built here. So every key
and value of a recipe has a `Location`, a key written twice is refused (PyYAML keeps the last one in silence), and
scalars follow YAML 1.2's core schema: `1e-3` is a number (PyYAML reads it as text), `on`, `off`, `yes` and `no` are
text (PyYAML reads them as booleans), and `012` is twelve.

Limits: no tags (`!!python/...`), no merge keys (`<<`), one document per file. Anchors and aliases work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from luopan.errors import RecipeError

Key = str | int
KeyPath = tuple[Key, ...]

_PLAIN_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
_STANDARD = "tag:yaml.org,2002:"
_TAGS = {f"{_STANDARD}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "map", "seq")}


@dataclass(frozen=True)
class Location:
    """Where something was written: a file and a line (counted from 1), or an override of the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Located:
    """Plain data (dicts, lists, scalars) and, for each path in it, where its key and its value were written."""

    data: object
    source: str
    keys: dict[KeyPath, Location] = field(default_factory=dict)
    values: dict[KeyPath, Location] = field(default_factory=dict)

    def location(self, path: KeyPath) -> Location:
        """Where the key at `path` was written, or, if it was not, the nearest thing around it that was."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            if part in self.keys:
                return self.keys[part]
            if part in self.values:
                return self.values[part]
        return Location(self.source)


def read_yaml(path: Path) -> Located:
    """Reads a file; a file that is missing, not UTF-8, or not YAML raises RecipeError with its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("no such file", where=path) from None
    except IsADirectoryError:
        raise RecipeError("is a folder, not a recipe file", where=path) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", where=path, hint="Save it as UTF-8.") from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=path) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Located:
    """Parses one YAML document; `source` names it in locations and errors. Raises RecipeError."""
    located = Located(None, source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Location(source, mark.line + 1) if mark else Location(source)
        problem = error.problem or error.context or "cannot be read"
        hint = "Indent with spaces." if "'\\t'" in str(problem) else None
        raise RecipeError(f"not valid YAML: {problem}", where=where, hint=hint) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML: {str(error).splitlines()[0]}", where=source) from None
    if node is not None:
        located.data = _build(node, (), located, ())
    return located


def parse_value(text: str) -> object:
    """The value of an override (`1e-3`, `true`, `[1, 2]`, `{path: x}`); text that is no YAML is taken as it stands."""
    try:
        return parse_yaml(text, "value").data
    except RecipeError:
        return text


def _build(node: yaml.Node, path: KeyPath, located: Located, open_nodes: tuple[int, ...]) -> object:
    where = Location(located.source, node.start_mark.line + 1)
    located.values[path] = where
    if id(node) in open_nodes:
        raise RecipeError("an alias refers to the block that holds it", where=where)
    if node.tag not in _TAGS:
        raise RecipeError(f"the tag {node.tag.replace(_STANDARD, '!!')} is not supported", where=where)
    inside = (*open_nodes, id(node))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), located, inside) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    result: dict[str, object] = {}
    for key, key_where, value in _entries(node, located.source):
        if key in result:
            first = located.keys[(*path, key)]
            raise RecipeError(
                f'the key "{key}" is written twice (first on line {first.line})',
                where=key_where,
                hint="Remove one of the two.",
            )
        located.keys[(*path, key)] = key_where
        result[key] = _build(value, (*path, key), located, inside)
    return result


def _entries(node: yaml.MappingNode, source: str) -> Iterator[tuple[str, Location, yaml.Node]]:
    for key_node, value_node in node.value:
        where = Location(source, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError("a key has to be a plain name", where=where)
        if key_node.value == "<<" and key_node.style is None:
            raise RecipeError("merge keys (<<) are not supported", where=where, hint="Write the keys out.")
        yield key_node.value, where, value_node


def _scalar(node: yaml.ScalarNode) -> object:
    text = node.value
    if node.style is not None:  # quoted, or a block
        return text
    kind = next((name for name, pattern in _PLAIN_SCALARS if pattern.fullmatch(text)), "text")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def is_plain_text(text: str) -> bool:
    """Whether unquoted `text` would be read as text."""
    return not any(pattern.fullmatch(text) for _, pattern in _PLAIN_SCALARS)
