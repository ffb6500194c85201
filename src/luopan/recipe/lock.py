"""`recipe.lock.yaml`: the recipe a run was made with, overrides applied, and the software that made it.

The file is itself a recipe: `luopan run runs/quickstart/recipe.lock.yaml` does the same again. Under `lock` it holds
what is not part of a recipe: source, overrides, versions and every setting with its default filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from luopan.recipe.load import LOCK_KEY, LoadedRecipe
from luopan.recipe.yaml_source import is_plain_text

_HEAD = "# Written by luopan run: what this run was made with. It can be run again like any recipe.\n"


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read as a number, a truth value or nothing (`1e-3`), which PyYAML does not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if is_plain_text(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump_yaml(value: Any) -> str:
    """YAML text that `read_yaml` reads back to the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def lock_text(loaded: LoadedRecipe, versions: Mapping[str, str]) -> str:
    """The text of `recipe.lock.yaml`."""
    written = {key: value for key, value in loaded.written.items() if key != LOCK_KEY}
    lock = {
        "source": loaded.source,
        "overrides": list(loaded.overrides),
        "versions": dict(versions),
        "resolved": loaded.recipe.model_dump(mode="json"),
    }
    return f"{_HEAD}{dump_yaml(written)}\n{dump_yaml({LOCK_KEY: lock})}"
