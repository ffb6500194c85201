"""A decoder to and from a Hugging Face model folder: `config.json` and safetensors, never pickle.

Names differ by the leading `model.`, and those of experts as `hf_experts.py` says; a tied head is stored once, as the
embedding. What is read is checked whole: a missing, a superfluous or a misshapen tensor is a `ModelError` that names
it. Configurations: `hf_read.py`, `hf_write.py`. Buffers (the load and the bias of experts) are no weights: a Hugging
Face folder has none of them, our own form keeps them. Limit: everything passes through the memory of the CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luopan.artifacts.files import atomic_write_json, fsync_path, mend_os_errors
from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.hf_architectures import LUOPAN
from luopan.model.hf_experts import join_experts, split_experts
from luopan.model.hf_read import from_hf_config
from luopan.model.hf_write import auto_architecture, to_hf_config

__all__ = [
    "auto_architecture",
    "export_state_dict",
    "from_hf_config",
    "import_state_dict",
    "load",
    "read_tensors",
    "read_config",
    "save",
    "to_hf_config",
]

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def export_state_dict(model: Decoder, architecture: str | None = None) -> dict[str, Tensor]:
    """The weights under Hugging Face names; the tensors are the model's own or views of them, not copies.

    `architecture` as in `to_hf_config`; "luopan" keeps experts in one piece and adds the buffers.
    """
    model_type = to_hf_config(model.config, architecture)["model_type"]
    if model_type == LUOPAN:
        return {_hf_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    weights = {_hf_name(name): parameter.detach() for name, parameter in model.named_parameters()}
    return split_experts(weights, model_type)


def import_state_dict(
    config: ModelConfig, tensors: Mapping[str, Tensor], where: object | None = None
) -> dict[str, Tensor]:
    """Tensors under Hugging Face names, as a state dict for `Decoder(config)`; ModelError where they do not fit.

    Buffers that are not among them come as they are before the first step.
    """
    with torch.device("meta"):
        empty = Decoder(config)
    wanted = {_hf_name(name): (name, tensor.shape) for name, tensor in empty.state_dict().items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.num_experts is not None:
        fresh = {_hf_name(name): tensor for name, tensor in empty.named_buffers() if _hf_name(name) in wanted}
        tensors = {**fresh, **join_experts(tensors, config.num_experts, where)}
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        head = tensors.pop("lm_head.weight")
        if "model.embed_tokens.weight" in tensors and not torch.equal(head, tensors["model.embed_tokens.weight"]):
            raise ModelError(
                "tie_word_embeddings is true but lm_head.weight differs from the embedding",
                where=where,
                hint="Set tie_word_embeddings to false in config.json to keep both.",
            )
    if "score.weight" in tensors and "score.weight" not in wanted:
        raise ModelError(
            "is a reward model: it gives a text a number and cannot continue it",
            where=where,
            hint="luopan.rl.reward_model.load_reward_model loads it, and score asks it.",
        )
    if missing := sorted(set(wanted) - set(tensors)):
        raise ModelError(f"{len(missing)} tensors are missing, the first is {missing[0]}", where=where)
    if extra := sorted(set(tensors) - set(wanted)):
        raise ModelError(f"{len(extra)} tensors belong to no part of the model, the first is {extra[0]}", where=where)
    for name, (_, shape) in wanted.items():
        if tensors[name].shape != shape:
            raise ModelError(
                f"{name} is {list(tensors[name].shape)}, the configuration says {list(shape)}", where=where
            )
    return {ours: tensors[name] for name, (ours, _) in wanted.items()}


def _hf_name(name: str) -> str:
    return name if name.startswith(("lm_head.", "score.")) else f"model.{name}"


def load(path: Path | str, dtype: torch.dtype | None = torch.float32) -> Decoder:
    """The decoder in a Hugging Face folder, on the CPU, in `dtype` (None: as stored)."""
    path = Path(path)
    config = read_config(path)
    tensors = read_tensors(path)
    with torch.device("meta"):
        model = Decoder(config)
    buffers = {name for name, _ in model.named_buffers()}
    state = {
        # A copy of its own: the mapped file may be replaced while the model is in use.
        name: tensor.to(tensor.dtype if dtype is None or name in buffers else dtype, copy=True)
        for name, tensor in import_state_dict(config, tensors, where=path).items()
    }
    model.load_state_dict(state, assign=True)
    return model


def read_config(path: Path | str) -> ModelConfig:
    """The configuration in a Hugging Face folder."""
    file = Path(path) / "config.json"
    return from_hf_config(read_json(file), where=file)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError where it is missing or something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("there is no such file", where=file, hint="Give the folder of a saved model.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot be read ({error})", where=file) from error
    except json.JSONDecodeError as error:
        raise ModelError(f"is not JSON ({error.msg})", where=f"{file}:{error.lineno}") from error
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=file)
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name. ModelError where they are missing, damaged or pickled."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (path / _WEIGHTS).exists():
        names = [_WEIGHTS]
    elif (path / _INDEX).exists():
        weight_map = read_json(path / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError("weight_map is missing", where=path / _INDEX)
        names = sorted(set(weight_map.values()))
        # A name in an index is a file beside it, not a path to somewhere else.
        if outside := [name for name in names if Path(str(name)).name != name]:
            raise ModelError(
                f"weight_map names {outside[0]!r}, which is not a file of this folder", where=path / _INDEX
            )
    else:
        pickled = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt*"))
        hint = f"{pickled[0].name} is a pickle, which can run code: convert it to safetensors." if pickled else None
        raise ModelError(f"there is no {_WEIGHTS}", where=path, hint=hint)
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors.update(load_file(path / name))
        except FileNotFoundError as error:
            raise ModelError("a file of the model is missing", where=path / name) from error
        except (SafetensorError, OSError) as error:
            raise ModelError(f"is damaged or no safetensors file ({error})", where=path / name) from error
    return tensors


def save(
    model: Decoder,
    path: Path | str,
    *,
    architecture: str | None = None,
    bos_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors`, for transformers and for `load`.

    `architecture` as in `to_hf_config`: "auto" writes our own form, which transformers does not load, where no family
    of transformers can express the model. `dtype` None keeps the weights' own. Token ids are those generation starts,
    stops and pads with; the tokenizer is saved by whoever has it. Each file appears whole or not at all.
    """
    path = Path(path)
    if adapter := [name for name, _ in model.named_parameters() if name.endswith(("lora_A", "lora_B"))]:
        raise ModelError(
            f"the model has an adapter ({adapter[0]})", hint="Save inside luopan.model.lora.merged(model)."
        )
    config = to_hf_config(model.config, architecture)
    buffers = {_hf_name(name) for name, _ in model.named_buffers()}
    tokens = {
        "bos_token_id": bos_token_id,
        "eos_token_id": list(eos_token_id) if isinstance(eos_token_id, Sequence) else eos_token_id,
        "pad_token_id": pad_token_id,
    }
    state = {
        name: tensor.to("cpu", None if name in buffers else dtype).contiguous()
        for name, tensor in export_state_dict(model, config["model_type"]).items()
    }
    stored = str(state["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    with mend_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / _WEIGHTS, state)
    (path / _INDEX).unlink(missing_ok=True)
    atomic_write_json(path / "config.json", {**config, **tokens, "dtype": stored, "torch_dtype": stored})
    given = {name: value for name, value in tokens.items() if value is not None}
    atomic_write_json(path / "generation_config.json", {"_from_model_config": False, **given})


def write_tensors(file: Path, state: Mapping[str, Tensor]) -> None:
    """A safetensors file that is there whole or not at all."""
    from safetensors.torch import save_file

    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(state), temporary, metadata={"format": "pt"})
        fsync_path(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
