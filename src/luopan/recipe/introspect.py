"""What may be written where: walks the type annotations of pydantic models along a path of keys.

Used for suggestions ("did you mean"), for overrides and for references between stages. It works on any pydantic model:
optional fields, unions told apart by a literal field (`kind`), dicts and lists are followed; where a union cannot be
told apart by the data, all of its members are candidates.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from luopan.recipe.yaml_source import Key, KeyPath


def members(annotation: Any) -> list[Any]:
    """The plain types behind an annotation: `Annotated` and unions opened, `None` left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if hasattr(annotation, "__value__"):  # type X = ...
        return members(annotation.__value__)
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [] if annotation in (None, type(None)) else [annotation]


def is_model(annotation: Any) -> bool:
    """True for a pydantic model class."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def models_for(annotation: Any, data: object) -> list[type[BaseModel]]:
    """The models that `data` may be meant for; its literal fields (`kind: sft`) rule out the others."""
    models = [member for member in members(annotation) if is_model(member)]
    if not isinstance(data, Mapping) or len(models) < 2:
        return models
    agreeing = [m for m in models if all(_agrees(field, data, name) for name, field in m.model_fields.items())]
    return agreeing or models


def _agrees(field: FieldInfo, data: Mapping[Any, Any], name: str) -> bool:
    return get_origin(field.annotation) is not Literal or name not in data or data[name] in get_args(field.annotation)


def annotations_at(root: Any, data: object, path: Sequence[Key]) -> list[Any]:
    """The types that the value at `path` may have; empty when nothing may be written there."""
    here = [root]
    for key in path:
        here = [inner for annotation in here for inner in _step(annotation, data, key)]
        data = child(data, key)
    return here


def _step(annotation: Any, data: object, key: Key) -> Iterator[Any]:
    for model in models_for(annotation, data):
        if isinstance(key, str) and (field := fields_of(model).get(key)):
            yield field.annotation
    for member in members(annotation):
        arguments = get_args(member)
        origin = get_origin(member) or member
        if not isinstance(origin, type) or is_model(origin):
            continue
        if issubclass(origin, Mapping) and isinstance(key, str):
            yield arguments[1] if len(arguments) == 2 else Any
        elif issubclass(origin, list | tuple) and isinstance(key, int):
            yield arguments[0] if arguments else Any
        elif issubclass(origin, object) and origin is object:
            yield Any


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys a model takes, by the name they are written with (their alias where they have one)."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {**fields, **getattr(model, "WRITABLE", {})}


def known_keys(root: Any, data: object, path: KeyPath) -> list[str]:
    """The keys that may be written in the mapping at `path`, in the order they are declared."""
    for key in path:
        root_options = list(_step(root, data, key))
        data = child(data, key)
        if not root_options:
            return []
        root = Union[tuple(root_options)]  # noqa: UP007 - a tuple of types cannot be joined with |
    return list(dict.fromkeys(name for model in models_for(root, data) for name in fields_of(model)))


def child(data: object, key: Key) -> Any:
    """`data[key]` where there is one, else None."""
    if isinstance(data, Mapping):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and -len(data) <= key < len(data):
        return data[key]
    return None


def suggestion(word: object, known: Iterable[str], *, list_up_to: int = 12) -> str:
    """`; did you mean "x"?` where something is near, else the known words where they are few, else nothing."""
    names = list(known)
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if not near:  # a part of a name, or the same name in another case
        folded = str(word).casefold()
        near = [name for name in names if len(folded) > 2 and (folded in name.casefold() or name.casefold() in folded)]
    if near:
        return f'; did you mean "{near[0]}"?'
    if names and len(names) <= list_up_to:
        return f"; known: {', '.join(names)}"
    return ""
