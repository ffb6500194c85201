"""What a recipe may hold, for people: every key with its type, its default and what it is for, as Markdown.

Made from the models themselves, so it cannot say anything that the loader does not do.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from luopan.recipe.introspect import fields_of, is_model, members

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true/false", Path: "path", type(None): "null"}


def markdown_reference(recipe: type[BaseModel]) -> str:
    """One section per block of keys: the recipe, each stage kind, and the blocks within them."""
    pages = {model: _section(model, title) for model, title in _models(recipe, "recipe")}
    return "\n\n".join(pages.values()) + "\n"


def _models(model: type[BaseModel], title: str) -> Iterator[tuple[type[BaseModel], str]]:
    seen: set[type[BaseModel]] = set()
    pending = [(model, title)]
    while pending:
        one, name = pending.pop(0)
        if one in seen:
            continue
        seen.add(one)
        yield one, name
        for field in fields_of(one).values():
            pending += [(inner, section_name(inner)) for inner in _models_in(field.annotation)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    found = []
    for member in members(annotation):
        if is_model(member):
            found.append(member)
        else:
            found += [inner for argument in get_args(member) for inner in _models_in(argument)]
    return found


def section_name(model: type[BaseModel]) -> str:
    """A stage kind's section is called `kind: sft`, another block by its model."""
    field = model.model_fields.get("kind")
    if field is not None and get_origin(field.annotation) is Literal:
        return f"kind: {', '.join(get_args(field.annotation))}"
    return model.__name__


def _section(model: type[BaseModel], title: str) -> str:
    about = " ".join((model.__doc__ or "").split())
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in fields_of(model).items():
        cells = (f"`{name}`", type_words(field.annotation), _default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return f"## {title}\n\n{about}\n\n" + "\n".join(rows)


def type_words(annotation: Any) -> str:
    """A type as a user would say it: `whole number`, `list of text`, `one of a, b`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(argument) for argument in arguments))
    if origin in (list, tuple, set, frozenset):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {type_words(inner[0])}" if inner else "list"
    if origin is dict:
        return f"block of {type_words(arguments[1])}"
    if is_model(annotation):
        return f"block ({section_name(annotation)})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(f"`{member.value}`" for member in annotation)
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "see the block"
    return f"`{json.dumps(value, default=str)}`"
