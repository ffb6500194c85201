"""Before models are merged: are they of one shape, do their tokens mean the same, what do they differ in besides.

Configurations are compared as they are understood (`hf_read.py`), not by their keys: the same shape is written in
several ways by transformers, its older versions and us. What only says how a model was trained does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from luopan.errors import ModelError
from luopan.model.hf import read_config, read_json

# Keys of ModelConfig that do not take part in what a trained model computes.
TRAINING = frozenset(
    {"initializer", "initializer_range", "router_aux_loss_coef", "router_z_loss_coef", "router_bias_update_rate"}
)
CONTEXT = "max_position_embeddings"


def check_alike(models: Sequence[Path], base: Path | None = None) -> list[str]:
    """Warnings about what models of one shape differ in; ModelError naming what keeps them from being merged."""
    first = models[0]
    config, words, template = read_config(first).model_dump(), Words(first), template_of(first)
    warnings = []
    for folder in [*models[1:], *([base] if base is not None else [])]:
        other = read_config(folder).model_dump()
        for key in config:
            if config[key] != other[key] and key not in TRAINING | {CONTEXT}:
                raise ModelError(
                    f"{key} is {other[key]!r}, in {first} it is {config[key]!r}: only models of one shape are merged",
                    where=folder,
                )
        if config[CONTEXT] != other[CONTEXT]:
            warnings.append(f"{folder}: {CONTEXT} is {other[CONTEXT]}; {config[CONTEXT]} of {first} is kept")
        warnings += Words(folder).compared(words, folder, first, strict=folder is not base)
        if folder is not base and template_of(folder) != template:
            warnings.append(f"{folder} has another chat template; that of {first} is kept")
    return warnings


class Words:
    """What a folder's tokenizer.json says that its tokens are."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        found = read_json(file) if file.is_file() else None
        model = (found or {}).get("model")
        self.known = found is not None
        self.vocabulary: Any = (model or {}).get("vocab") if isinstance(model, Mapping) else model
        merges = model.get("merges") if isinstance(model, Mapping) else None
        # tokenizers before 0.20 write a merge as "a b", later ones as ["a", "b"].
        self.merges = [tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in merges or ()]
        self.added = {str(one["id"]): str(one["content"]) for one in (found or {}).get("added_tokens") or ()}

    def compared(self, first: Words, folder: Path, place: Path, *, strict: bool) -> list[str]:
        """Warnings; ModelError where tokens differ. Added tokens of a base, often unused there, are only warned of."""
        if not (self.known and first.known):
            if self.known == first.known:
                return []
            return [f"{folder}: one of the two has no tokenizer.json, so that the vocabularies were not compared"]
        if self.vocabulary != first.vocabulary or self.merges != first.merges:
            raise ModelError(
                f"its tokenizer is not that of {place} ({self._first_difference(first)}): the same token would mean "
                "different things",
                where=folder,
                hint="Only models that share a tokenizer can be merged; train one on the other's tokenizer first.",
            )
        for number in sorted({*self.added, *first.added}, key=int):
            one, other = self.added.get(number), first.added.get(number)
            if one == other:
                continue
            said = f"token {number} is {one!r}, in {place} it is {other!r}"
            if strict:
                raise ModelError(
                    f"its tokenizer is not that of {place}: {said}",
                    where=folder,
                    hint="Add the same tokens to both (luopan tokenizer), and train on them.",
                )
            return [f"the base {folder}: {said}; what was learnt of it counts as a change"]
        return []

    def _first_difference(self, first: Words) -> str:
        if isinstance(self.vocabulary, Mapping) and isinstance(first.vocabulary, Mapping):
            for token in {**first.vocabulary, **self.vocabulary}:
                one, other = self.vocabulary.get(token), first.vocabulary.get(token)
                if one != other:
                    return f"{token!r} is number {one} here and {other} there"
            for number, (mine, theirs) in enumerate(zip_longest(self.merges, first.merges)):
                if mine != theirs:
                    return f"merge {number} differs"
        return "their vocabularies differ"


def template_of(folder: Path) -> str | None:
    """The chat template, from the file of its own or from tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    found = read_json(settings).get("chat_template") if settings.is_file() else None
    return None if found is None else str(found)
