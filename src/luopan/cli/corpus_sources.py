"""What stands after `luopan corpus run` and `try`: sources or a recipe, beside the settings (`corpus_settings.py`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from luopan.cli.corpus_settings import config_of, key_of, misspelt, split_words, with_hints
from luopan.corpus.chain import LOCAL
from luopan.corpus.config import CurateConfig
from luopan.corpus.files import near
from luopan.corpus.source_config import CodeSource, FileSource, HubSource, PackagedName, PackagedSource, SourceConfig
from luopan.errors import RecipeError
from luopan.recipe.load import load_recipe, shipped_recipes

FORMS = "Give a path, packaged:NAME, code:FOLDER or hub:OWNER/NAME; NAME=SOURCE gives it a name."


def sources_of(words: Sequence[str], columns: dict[str, str | None]) -> tuple[SourceConfig, ...]:
    """The sources that words name; `columns` (text_column, id_column, url_column, licence) are those of each of them
    that has rows. RecipeError for a word that is none, for none at all and for columns that nothing has.
    """
    if not words:
        raise RecipeError("no source is given", hint=FORMS)
    given = {key: value for key, value in columns.items() if value is not None}
    sources: list[SourceConfig] = []
    for word in words:
        sources.append(source_of(word, given, {source.name for source in sources}))
    for key in given:
        if not any(key in type(source).model_fields for source in sources):
            raise RecipeError(f"--{key.replace('_', '-')} has no effect: no source here has it")
    return tuple(sources)


def source_of(word: str, columns: dict[str, str], taken: set[str]) -> SourceConfig:
    """One source: `texts`, `books=texts/*.jsonl`, `packaged:scripture`, `code:src`, `hub:owner/name:config:split`."""
    name, named, place = word.partition("=")
    if not named or Path(word).exists():
        name, place = "", word
    form, marked, rest = place.partition(":")
    known = get_args(PackagedName)
    if (marked and form == "packaged") or (place in known and not Path(place).exists()):
        wanted = rest if marked else place
        if wanted not in known or name:
            what = f"a packaged text keeps its name: {wanted}" if name else f"there is no packaged text {wanted!r}"
            raise RecipeError(what, where=word, hint=f"There are: {', '.join(known)}.")
        return PackagedSource(packaged=wanted)  # type: ignore[arg-type]
    if marked and form == "code":
        own = {key: value for key, value in columns.items() if key in CodeSource.model_fields}
        return CodeSource(code=rest, name=free_name(name or f"code-{stem(rest)}", taken), **own)  # type: ignore[arg-type]
    if marked and form == "hub":
        dataset, *further = rest.split(":")
        if not dataset or len(further) > 2:
            raise RecipeError("is written hub:OWNER/NAME[:CONFIG[:SPLIT]]", where=word)
        options: dict[str, Any] = {**columns, **dict(zip(("config", "split"), further))}
        return HubSource(dataset=dataset, name=free_name(name or stem(dataset), taken), **options)
    if not Path(place).exists() and not re.search(r"[*?\[]", place):
        raise misspelt(word) or RecipeError("no such file or folder", where=word, hint=f"{nearest(place)}\n  {FORMS}")
    return FileSource(path=place, name=free_name(name or stem(place), taken), **columns)  # type: ignore[arg-type]


def nearest(place: str) -> str:
    """What there is instead of a file or folder that is missing."""
    try:
        return near(Path(place))
    except OSError as error:
        return f"It cannot be looked for: {error.strerror}."


def capped(sources: Sequence[SourceConfig], max_bytes: int | None) -> tuple[SourceConfig, ...]:
    """The sources with a common cap on their bytes."""
    return tuple(source.model_copy(update={"max_bytes": max_bytes}) for source in sources)


def stem(place: str) -> str:
    """A name for a source: that of the file or folder without its endings; `files` where a glob has none."""
    name = Path(place).resolve().name if Path(place).exists() else Path(place).name
    name = re.sub(r"[^\w.-]+", "", name.split(".")[0]) or "files"
    return "files" if re.search(r"[*?\[]", Path(place).name) else name


def free_name(name: str, taken: set[str]) -> str:
    """The name, numbered if another source has it."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


Sides = tuple[tuple[SourceConfig, ...], CurateConfig, CurateConfig]
TRIED = ("preset", "per_source", "max_document_bytes", *LOCAL)  # settings that a sample can show
NOT_OF_THE_TEXT = ("tokenizer", "split_bytes", "executor", "workers")


def sides_of(words: Sequence[str], preset: str | None, columns: dict[str, str | None], stage: str | None) -> Sides:
    """(sources, the configuration as it is, the one to try), the same twice where no change is given. RecipeError for
    words that make neither.
    """
    places, settings = split_words(words)
    for setting in settings:
        check_can_be_tried(key_of(setting))
    is_recipe = len(places) == 1 and (
        Path(places[0]).suffix in (".yaml", ".yml") or (places[0] in shipped_recipes() and not Path(places[0]).exists())
    )
    if is_recipe:
        given = [key for key, value in {"preset": preset, **columns}.items() if value is not None]
        if given:
            option = given[0].replace("_", "-")
            raise RecipeError(f"--{option} has no effect: the recipe says it", where=places[0])
        return sides_of_recipe(places[0], settings, stage)
    sources = sources_of(places, columns)
    if stage is not None:
        raise RecipeError("--stage has no effect without a recipe")
    before, after = config_of([], preset), config_of(settings, preset)
    return sources, before, different(before, after, settings)


def check_can_be_tried(key: str) -> None:
    """RecipeError for a setting of which a sample shows nothing."""
    if key in NOT_OF_THE_TEXT:
        raise RecipeError(f"{key} has no effect on a sample", hint="Leave it away.")
    if key not in TRIED:
        raise RecipeError(f"{key} needs the whole corpus: use corpus run")


def sides_of_recipe(recipe: str, settings: Sequence[str], stage: str | None) -> Sides:
    """The same of a recipe's curate stage: its sources, its configuration, and that with the settings changed."""
    stages = load_recipe(recipe).recipe.stages
    known = [name for name, spec in stages.items() if spec.kind == "curate"]
    if stage is None and len(known) == 1:
        stage = known[0]
    if stage not in known:
        hint = f"Its curate stages: {', '.join(known)}; choose one with --stage." if known else None
        what = f"no curate stage {stage!r}" if stage is not None and known else f"{len(known) or 'no'} curate stages"
        raise RecipeError(what, where=recipe, hint=hint)
    try:
        changed = load_recipe(recipe, [f"stages.{stage}.{setting}" for setting in settings]).recipe.stages[stage]
    except RecipeError as error:
        raise with_hints(error, settings) from None
    return stages[stage].source.all_sources(), stages[stage], different(stages[stage], changed, settings)


def different(before: CurateConfig, after: CurateConfig, settings: Sequence[str]) -> CurateConfig:
    """`after`. RecipeError if settings are given that change nothing."""
    if settings and before == after:
        raise RecipeError(f"{' '.join(settings)} changes nothing: it is so already")
    return after
