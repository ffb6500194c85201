"""A model by name: a stage of a run, a Hugging Face folder, or a hub id; the one place that understands MODEL.

`model_folder` finds the folder, `resolve_model` (= `luopan.load`) loads it. A hub id is looked up in the local cache
first and fetched when it is not there and the hub can be reached; safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luopan.errors import LuopanError, ModelError
from luopan.model.hub import from_hub, is_hub_id
from luopan.recipe.introspect import suggestion

if TYPE_CHECKING:
    from luopan.generate.speculation import Speculation
    from luopan.generate.text import TextGenerator
    from luopan.model.decoder import Decoder


def model_folder(model: str | Path) -> Path:
    """The Hugging Face folder of MODEL. Raises ModelError that says what there is instead."""
    path, text = Path(model), str(model)
    if path.is_dir():
        for folder in (path, path / "model"):
            if (folder / "config.json").is_file():
                return folder
        raise ModelError("no model in this folder", where=path, hint=_what_there_is(path))
    if path.is_file():
        raise ModelError("is a file; give the folder of a stage or a Hugging Face folder", where=path)
    if is_hub_id(text):
        return from_hub(text)
    partial = path.with_name(f"{path.name}.partial")
    if partial.is_dir():
        raise ModelError("this stage is not finished", where=path, hint="Run its recipe again to go on with it.")
    near = [child.name for child in path.parent.iterdir() if child.is_dir()] if path.parent.is_dir() else []
    raise ModelError(
        f"no such model{suggestion(path.name, near, list_up_to=0)}",
        where=path,
        hint="Give a stage such as runs/quickstart/sft, a Hugging Face folder, or a hub id such as owner/name.",
    )


def _what_there_is(path: Path) -> str:
    stages = sorted(config.parents[1].name for config in path.glob("*/model/config.json"))
    if stages:
        return f"It is a run; give one of its stages: {', '.join(str(path / stage) for stage in stages)}"
    if (path / "manifest.json").is_file():
        return "It is a stage that makes no model; give one that does, such as runs/quickstart/sft."
    return "A Hugging Face folder holds config.json and model.safetensors."


def resolve_model(model: str | Path, *, device: Any = None) -> tuple[Decoder, Any]:
    """Loads MODEL: (decoder in fp32, evaluation mode; tokenizer), on `device` (default: a GPU where there is one)."""
    folder = model_folder(model)
    from luopan.model.hf import load as load_decoder
    from luopan.tokens.tokenizer import load_tokenizer
    from luopan.train.device import pick_device

    return load_decoder(folder).to(device or pick_device()).eval(), load_tokenizer(folder)


def load(model: str | Path, *, device: Any = None) -> tuple[Decoder, Any]:
    """`model, tokenizer = luopan.load("runs/quickstart/grpo")`; see `resolve_model`."""
    return resolve_model(model, device=device)


def text_generator(
    model: str | Path, *, dtype: Any = "float32", quantize: Any = None, speculate: str | None = None
) -> TextGenerator:
    """MODEL ready to speak, its weights held as told (`generate.weights.prepare`)."""
    from luopan.generate.text import TextGenerator
    from luopan.generate.weights import prepare

    weights, tokenizer = resolve_model(model)
    held = prepare(weights, dtype, quantize)
    return TextGenerator(held, tokenizer, speculation=speculation(speculate, next(weights.parameters()).device))


def speculation(speculate: str | None, device: Any = None) -> Speculation | None:
    """What a command line says of guessing ahead: "ngram", or the MODEL that guesses. None where it says nothing."""
    from luopan.generate.speculation import Speculation

    if speculate is None:
        return None
    return Speculation(None if speculate == "ngram" else resolve_model(speculate, device=device)[0])


def tokenizer_folder(model: str | Path) -> Path:
    """The folder of MODEL's tokenizer: a tokenizer stage's, or the one that comes with a model."""
    path = Path(model)
    for folder in (path, path / "tokenizer", path / "model"):
        if (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file():
            return folder
    try:
        return model_folder(model)
    except LuopanError as error:
        raise ModelError(error.message.replace("model", "tokenizer"), where=error.where, hint=error.hint) from None


def default_sampling(model: str | Path) -> dict[str, Any]:
    """How MODEL's `generation_config.json` wants to be sampled; empty (greedy) where it does not say `do_sample`."""
    file = model_folder(model) / "generation_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict) or not config.get("do_sample"):
        return {}
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    said = {name: config[name] for name in names if config.get(name) is not None}
    if said.get("top_k") == 0:
        del said["top_k"]
    return {"temperature": 1.0, **said}


def merge_models(
    out: Path,
    models: Sequence[str],
    *,
    method: str = "linear",
    weights: tuple[float, ...] = (),
    normalize: bool = True,
    base: str | None = None,
    said: Callable[[str], None] = lambda text: None,
    **knobs: float | None,
) -> dict[str, Any]:
    """Merge MODELs, or adapters' folders, into the folder `out`; returns the record that `merge.json` there holds.

    `knobs`: t, density, scale. Raises ModelError, also for a knob that would have no effect.
    """
    from luopan.model.merge import MergePlan
    from luopan.model.merge_files import merge_folders
    from luopan.model.peft_files import CONFIG

    acts = {"t": ("slerp",), "density": ("ties",), "scale": ("task_arithmetic", "ties")}
    given = {name: value for name, value in knobs.items() if value is not None}
    if idle := [name for name in given if method not in acts[name]]:
        raise ModelError(f"--{idle[0]} has no effect with method {method}")
    folders = [Path(model) if (Path(model) / CONFIG).is_file() else model_folder(model) for model in models]
    names = [*models, *([base] if base else [])]
    plan = MergePlan(method, weights, normalize, **given)  # type: ignore[arg-type]
    return merge_folders(folders, out, plan, model_folder(base) if base else None, said, names=names)
