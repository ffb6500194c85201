"""`luopan recipes`: list, show and copy the recipes that come with luopan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()

Name = Annotated[str, typer.Argument(help="The name of a shipped recipe.")]


@app.callback(
    invoke_without_command=True,
    epilog=examples("luopan recipes", "luopan recipes show quickstart", "luopan recipes copy quickstart my.yaml"),
)
def recipes(context: typer.Context) -> None:
    """The recipes that come with luopan: start from one of them."""
    if context.invoked_subcommand is None:
        show_list()


@app.command("list", epilog=examples("luopan recipes list"))
def show_list(as_json: JsonFlag = False) -> None:
    """Lists the shipped recipes, each with its description."""
    from luopan.recipe.introspect import child
    from luopan.recipe.load import shipped_recipes
    from luopan.recipe.yaml_source import read_yaml

    found = []
    for name, path in shipped_recipes().items():
        found.append({"name": name, "description": str(child(read_yaml(path).data, "description") or "")})
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    width = max((len(recipe["name"]) for recipe in found), default=0) + 2
    for recipe in found:
        print(f"{recipe['name']:<{width}}{' '.join(recipe['description'].split())}")


@app.command(epilog=examples("luopan recipes show smoke"))
def show(name: Name) -> None:
    """Prints a shipped recipe."""
    print(_text(name), end="")


@app.command(epilog=examples("luopan recipes copy quickstart my.yaml"))
def copy(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where to write it; an existing file is not overwritten.")],
) -> None:
    """Copies a shipped recipe to a file of yours, to be changed."""
    from luopan.artifacts import atomic_write_text
    from luopan.errors import RecipeError

    text = _text(name)
    if file.exists():
        raise RecipeError("exists already; not overwritten", where=file, hint="Give another name or remove it first.")
    atomic_write_text(file, text)
    print(f"wrote {file}: change it, then `luopan run {file}`")


def _text(name: str) -> str:
    from luopan.errors import RecipeError
    from luopan.recipe.introspect import suggestion
    from luopan.recipe.load import shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f'there is no shipped recipe "{name}"{suggestion(name, shipped, list_up_to=30)}')
    return shipped[name].read_text(encoding="utf-8")
