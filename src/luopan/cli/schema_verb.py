"""`luopan schema`: what a recipe may hold."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from luopan.cli.app import examples, verb_app

app = verb_app()


@app.command(epilog=examples("luopan schema > recipe.schema.json", "luopan schema --markdown"))
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for people instead of JSON schema.")] = False,
) -> None:
    """Prints the JSON schema of a recipe: every key, its type, its default, what it is for.

    Editors complete and check a recipe with it: its first line has to be
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    from luopan.recipe.specs import Recipe

    if markdown:
        from luopan.recipe.reference_table import markdown_reference

        print(markdown_reference(Recipe), end="")
        return
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    print(json.dumps(document, ensure_ascii=False, indent=2))
