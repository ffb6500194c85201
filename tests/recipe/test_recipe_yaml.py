"""YAML with lines: what is read, what is refused, and where."""

from __future__ import annotations

import math

import pytest

from luopan.errors import RecipeError
from luopan.recipe.lock import dump_yaml
from luopan.recipe.yaml_source import parse_value, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-7", -7),
        ("012", 12),
        ("0x1f", 31),
        ("0o17", 15),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'3'", "3"),
        ('"1e-3"', "1e-3"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("-.inf", -math.inf),
        ("3 apples", "3 apples"),
        ("[1, a, 1e2]", [1, "a", 100.0]),
        ("{a: 1}", {"a": 1}),
        ("no: yes: maybe", "no: yes: maybe"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_every_key_and_value_knows_its_line() -> None:
    located = parse_yaml("# a comment\na:\n  b: 1\n  c:\n    - x\n    - y: 2\n", "file.yaml")
    assert str(located.location(("a",))) == "file.yaml:2"
    assert str(located.location(("a", "b"))) == "file.yaml:3"
    assert str(located.location(("a", "c", 0))) == "file.yaml:5"
    assert str(located.location(("a", "c", 1, "y"))) == "file.yaml:6"
    assert str(located.location(("a", "absent", "deeper"))) == "file.yaml:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r'f:3: the key "a" is written twice \(first on line 1\)'),
        ("x:\n  a: 1\n  a: 3\n", r'f:3: the key "a" is written twice'),
        ("a: [1\n", "f:2: not valid YAML"),
        ("a:\n\tb: 1\n", "f:2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "f:2: not valid YAML"),
        ("a: &x [*x]\n", "f:1: an alias refers to the block that holds it"),
        ("a: !!python/object:os.system x\n", "f:1: the tag .* is not supported"),
        ("a: !thing 3\n", "f:1: the tag .* is not supported"),
        ("[1, 2]: 3\n", "f:1: a key has to be a plain name"),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", "f:3: merge keys"),
    ],
)
def test_what_is_refused_and_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_yaml(text, "f")


def test_aliases_give_copies() -> None:
    data = parse_yaml("a: &x {b: 1}\nc: *x\n", "f").data
    assert data == {"a": {"b": 1}, "c": {"b": 1}}
    assert isinstance(data, dict) and data["a"] is not data["c"]


def test_what_is_dumped_reads_back_the_same() -> None:
    value = {
        "a": ["1e-3", "on", "null", "0x1", "", "x: y", " b", "two\nlines\n"],
        "f": 1e-5,
        "n": None,
        "t": True,
        "i": 3,
    }
    assert parse_yaml(dump_yaml(value), "f").data == value
