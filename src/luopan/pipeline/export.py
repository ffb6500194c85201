"""Copies a model out of a run: a Hugging Face folder that says where it came from.

The folder loads with `transformers`, vLLM, SGLang and with luopan; `luopan_lineage.json` in it holds every artifact
behind the model, `README.md` is its model card. The copy is checked against the manifest's checksums first and appears
whole or not at all. The other forms: `export_gguf.py`, `export_adapter.py`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from luopan.errors import ModelError
from luopan.pipeline.card_facts import CardOptions
from luopan.pipeline.export_folder import check_source, new_folder, weight_files, write_lineage
from luopan.pipeline.models import model_folder

HF_DTYPES = ("f32", "bf16", "f16")
# Taken along from a model folder; anything else in it is its owner's and stays.
KEPT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "merge.json",
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What an export made: its folder, what a user should know, and commands that use it."""

    folder: Path
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def export_hf(
    model: str | Path,
    target: Path,
    *,
    architecture: str | None = None,
    dtype: str | None = None,
    card: CardOptions | None = None,
) -> Exported:
    """Writes MODEL to the folder `target`, which must not exist; under another `architecture`, in another `dtype`
    (`HF_DTYPES`) if they are given.

    Raises ArtifactError (target exists, source damaged), ModelError (the source is not whole; an option that the
    architecture, or every one, cannot express; it is named).
    """
    from luopan.pipeline.card_use import use_of_folder
    from luopan.pipeline.model_card import write_card

    if dtype is not None and dtype not in HF_DTYPES:
        raise ModelError(
            f"a Hugging Face folder is not written in {dtype}", hint=f"{', '.join(HF_DTYPES)}; or --to gguf."
        )
    source = model_folder(model)
    config = check_source(source)
    from luopan.model.hf import to_hf_config
    from luopan.model.hf_read import is_own_form

    if architecture is None and is_own_form(source):  # that is for luopan alone; asked for by name, it is written
        architecture = str(to_hf_config(config)["model_type"])
    to_hf_config(config, architecture)  # ModelError where it cannot be expressed
    files = [*weight_files(source), *(name for name in KEPT_FILES if (source / name).is_file())]
    needed = sum((source / name).stat().st_size for name in files)
    with new_folder(target, needed * (2 if dtype == "f32" else 1)) as partial:
        for name in files:
            if (architecture is None and dtype is None) or name in KEPT_FILES:
                shutil.copyfile(source / name, partial / name)
        if architecture is not None or dtype is not None:
            _rewrite(source, partial, architecture or _architecture_of(source), dtype)
        write_lineage(source, partial)
        use = use_of_folder(partial, target.name)
        write_card(source, partial, card or CardOptions(), use, name=target.name, kind="hf")
    return Exported(target, use.notes, use.commands(target))


def _architecture_of(source: Path) -> str:
    from luopan.model.hf import read_json

    return str(read_json(source / "config.json").get("model_type"))


def _rewrite(source: Path, target: Path, architecture: str, dtype: str | None) -> None:
    import torch

    from luopan.model.hf import load, read_json, save

    generation = target / "generation_config.json"
    kept = read_json(generation) if generation.is_file() else read_json(source / "config.json")
    ids = {name: kept.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    types = {None: None, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    before = generation.read_bytes() if generation.is_file() else None
    save(load(source, dtype=None), target, architecture=architecture, dtype=types[dtype], **ids)
    if before is not None:
        generation.write_bytes(before)  # how to sample is no matter of the architecture
