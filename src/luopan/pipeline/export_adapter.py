"""The adapter of a LoRA stage as a folder of its own, in PEFT's format, with the model named that it belongs to.

`peft.PeftModel.from_pretrained(base, folder)` gives the logits of the stage's merged model (tested). The base is named
as the stage recorded it, which is a path of this machine unless another name is given.
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from luopan.artifacts import atomic_write_json, verify
from luopan.errors import ModelError
from luopan.pipeline.card_facts import CardOptions
from luopan.pipeline.card_use import Use, template_facts
from luopan.pipeline.export import Exported
from luopan.pipeline.export_folder import new_folder, refuse_existing, write_lineage

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def export_adapter(model: str | Path, target: Path, *, card: CardOptions | None = None) -> Exported:
    """Writes the adapter of MODEL, a stage that trained one or an adapter's folder, to the new folder `target`.

    `card.base_model` names the base. Raises ModelError where there is no adapter, or half of one.
    """
    from luopan.model.peft_files import CONFIG, WEIGHTS, read_adapter_config
    from luopan.pipeline.model_card import write_card

    card = card or CardOptions()
    refuse_existing(target)
    folder, source = find_adapter(Path(model))
    if (source / "manifest.json").is_file():
        verify(source)
    config = read_adapter_config(folder)
    check_adapter(folder)
    recorded = str(config.get("base_model_name_or_path") or "")
    base = card.base_model or recorded
    notes = []
    if not base:
        raise ModelError("the adapter does not name its base", where=folder, hint="--base-model owner/name names it.")
    if Path(base).is_absolute() or Path(base).exists():
        notes.append(
            f"the base is named as a path of this machine ({base}); --base-model owner/name names it for others"
        )
    tokenizer = [file for name in TOKENIZER_FILES if (file := source / "model" / name).is_file()]
    with new_folder(target, (folder / WEIGHTS).stat().st_size + (16 << 20)) as partial:
        shutil.copyfile(folder / WEIGHTS, partial / WEIGHTS)
        atomic_write_json(partial / CONFIG, {**config, "base_model_name_or_path": base})
        for file in tokenizer:
            shutil.copyfile(file, partial / file.name)
        write_lineage(source, partial)
        public = replace(card, base_model=card.base_model or (base if _is_hub_name(base) else None))
        told = ["the base is a folder of the machine where it was trained"] if notes else []  # a card names no paths
        use = _use(partial, target.name, base if _is_hub_name(base) else Path(base).name, told)
        write_card(source, partial, public, use, name=target.name, kind="adapter")
    return Exported(target, notes, [])


def find_adapter(path: Path) -> tuple[Path, Path]:
    """(the adapter's folder, the stage or folder it is of). ModelError that says what there is instead."""
    from luopan.model.peft_files import CONFIG

    for folder, source in ((path, path), (path / "adapter", path), (path.parent / "adapter", path.parent)):
        if (folder / CONFIG).is_file():
            return folder, source
    if not path.is_dir():
        raise ModelError("no such folder", where=path, hint="Give a stage that trained an adapter.")
    raise ModelError(
        "there is no adapter in this folder",
        where=path,
        hint="A stage with `adapter:` leaves one; --to hf exports the whole model.",
    )


def check_adapter(folder: Path) -> None:
    """ModelError where the weights are missing, cut short, or a pickle."""
    from safetensors import SafetensorError, safe_open

    from luopan.model.peft_files import WEIGHTS

    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            if not list(file.keys()):
                raise ModelError("holds no tensors", where=folder / WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"there is no {WEIGHTS}: the adapter is not whole", where=folder) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / WEIGHTS) from None


def _is_hub_name(name: str) -> bool:
    from luopan.model.hub import is_hub_id

    return is_hub_id(name) and not Path(name).exists()


def _use(folder: Path, name: str, base: str, notes: list[str]) -> Use:
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else None
    from luopan.tokens.templates import identify

    facts = template_facts(source, identify(source) if source else None)
    code = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base, ensure_ascii=False)})\n"
        'model = PeftModel.from_pretrained(base, "@DIR@")\n'
    )
    vllm = f"vllm serve {shlex.quote(base)} --enable-lora --lora-modules {shlex.quote(name)}=@DIR@"
    return Use(
        [("peft", "python", code, ""), ("vLLM", "sh", vllm, "Not run where this card was written.")], notes, facts
    )
