"""The settings of `luopan corpus run` and `try`: a curate stage's keys, with hints for what is often mistyped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field, PositiveInt

from luopan.corpus.config import CurateConfig, expand
from luopan.corpus.files import SUFFIXES
from luopan.errors import RecipeError
from luopan.recipe.introspect import is_model, members, suggestion
from luopan.recipe.load import load_recipe

OFF = ("off", "false", "none", "no", "0")
SWITCHES = (*OFF, "on", "true", "yes", "1", "")


class Settings(CurateConfig):
    """What the settings of a command line are checked against: a curate stage's keys, with presets filled in."""

    max_source_bytes: PositiveInt | None = Field(default=None, description="keep at most so many bytes of each source")

    expand = staticmethod(expand)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(sources, settings) of what was given: a setting is KEY=VALUE where KEY begins with a step's or key's name."""
    settings = [word for word in words if "=" in word and key_of(word) in Settings.model_fields]
    return [word for word in words if word not in settings], settings


def key_of(setting: str) -> str:
    """The step or key that a setting changes."""
    return re.split("[.=]", setting)[0]


def written(settings: Sequence[str], preset: str | None) -> dict[str, Any]:
    """What the settings write, checked. RecipeError that names every mistake."""
    given: dict[str, Any] = {} if preset is None else {"preset": preset}
    try:
        return load_recipe(given, settings, model=Settings).written
    except RecipeError as error:
        raise with_hints(error, settings) from None


def config_of(settings: Sequence[str], preset: str | None) -> CurateConfig:
    """The configuration that settings make of a preset's defaults. RecipeError as `written`."""
    given = written(settings, preset)
    return CurateConfig.build({key: value for key, value in given.items() if key != "max_source_bytes"})


def source_cap(settings: Sequence[str]) -> int | None:
    """What `max_source_bytes` among the settings says."""
    cap: int | None = written([word for word in settings if key_of(word) == "max_source_bytes"], None).get(
        "max_source_bytes"
    )
    return cap


def with_hints(error: RecipeError, settings: Sequence[str]) -> RecipeError:
    """The error with how the settings that it names are written."""
    hints: dict[str, None] = {}
    for setting in settings:
        said = next((line for line in str(error).splitlines() if f'{setting}": ' in line), "")
        if said and (hint := hint_for(setting, said)):
            hints[hint] = None
    told = [*([error.hint] if error.hint else []), *hints]
    return RecipeError(error.message, where=error.where, hint="\n  ".join(told) or None)


def hint_for(setting: str, said: str) -> str | None:
    """How a setting is written whose value is of the wrong kind; `said` is the message about it."""
    key, _, value = setting.partition("=")
    if "expected a block of keys" in said:
        if key_of(setting) == "decontaminate":
            file = value if value.lower() not in SWITCHES else "FILE"
            return f"For example: 'decontaminate={{sets: {{mine: {{path: {file}, columns: [question, answer]}}}}}}'"
        return f"{key}=null turns the step off, {key}={{}} turns it on, {key}.SETTING=VALUE changes one setting."
    if "expected a list" in said:
        return f"A list is written in brackets: '{key}=[{value}]'"
    if "expected a" in said and value.lower() in OFF[:3]:
        return f"null turns a limit off: {key}=null"
    return None


def misspelt(word: str) -> RecipeError | None:
    """What is wrong with a word that is no source but looks like a setting; None if it looks like a source."""
    left, equals, value = word.partition("=")
    if not equals:
        return step_alone(word)
    if not re.fullmatch(r"\w+([./]\w+)*", left):
        return None
    parts, fields = re.split("[./]", left), Settings.model_fields
    if parts[0] in fields:  # with a slash, or it would have been taken for a setting
        return RecipeError("a setting is written with a dot", where=word, hint=f"Write {'.'.join(parts)}={value}")
    plain = len(parts) == 1
    if plain and ("/" in value or value.lower().endswith(SUFFIXES)):
        return None
    if plain and (owners := [name for name, field in fields.items() if has_key(field.annotation, left)]):
        ways = " or ".join(f"{owner}.{left}={value}" for owner in owners)
        return RecipeError(f"{left} belongs to {' and '.join(owners)}: write {ways}", where=word)
    near = suggestion(parts[0], fields, list_up_to=0).replace('"', "")
    if near or not plain or re.fullmatch(r"null|true|false|\{.*\}|\[.*\]|[-+.\deE]+", value):
        known = None if near else f"The settings begin with: {', '.join(fields)}."
        return RecipeError(f'no setting "{parts[0]}"{near}', where=word, hint=known)
    return None


def step_alone(word: str) -> RecipeError | None:
    """What to say of a step's name without a value."""
    key = word.partition(".")[0]
    if key not in Settings.model_fields:
        return None
    hint = f"{key}={{}} turns a step on, {key}=null off, {key}.SETTING=VALUE changes a setting."
    return RecipeError("is a setting without a value", where=word, hint=hint)


def has_key(annotation: Any, key: str) -> bool:
    """True if a block of this type has the key, and needs no other beside it."""
    blocks = [member.model_fields for member in members(annotation) if is_model(member)]
    return any(
        key in fields and not any(f.is_required() and name != key for name, f in fields.items()) for fields in blocks
    )
