"""The models of a server: what each is called, how it is loaded, what it can do.

An adapter's folder is a model too. Its base is read once, and adapters of one base share its weights: each gets layers
of its own around the same tensors. Finding folders by name belongs to `pipeline.models`, a floor above, which is
therefore handed in.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from luopan.errors import LuopanError, ModelError
from luopan.generate.replies import ReplyFormat
from luopan.generate.speculation import Speculation
from luopan.generate.text import TextGenerator
from luopan.generate.weights import Precision, Quantise, prepare
from luopan.model.decoder import Decoder
from luopan.model.hf import load as load_decoder
from luopan.model.peft_files import CONFIG, WEIGHTS, load_adapter, read_adapter_config
from luopan.tokens.chat_format import chat_format
from luopan.tokens.tokenizer import load_tokenizer

_GENERIC = {"model", "final", "checkpoint", "adapter", "weights"}


@dataclass(frozen=True)
class ServedModel:
    """A model under a name. `created`: seconds since 1970. `default_sampling`: what holds where a request is silent.

    `parent`: the name of the base that an adapter belongs to.
    """

    name: str
    generator: TextGenerator
    owned_by: str = "luopan"
    created: int = field(default_factory=lambda: int(time.time()))
    default_sampling: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    parent: str | None = None

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.generator.tokenizer.chat_template)

    @property
    def thinks(self) -> bool:
        """Whether the template knows thinking."""
        return self.chats and chat_format(self.generator.tokenizer).thinks

    @property
    def calls_tools(self) -> bool:
        """Whether the template has a place for tools, and its calls can be read."""
        return self.chats and ReplyFormat.of(self.generator.tokenizer).tools

    def entry(self) -> dict[str, Any]:
        """As `/v1/models` lists it."""
        config = self.generator.model.config
        own = {
            "description": self.description,
            "context": config.max_position_embeddings,
            "parameters": config.num_parameters(),
            "chat": self.chats,
            "thinking": self.thinks,
            "tools": self.calls_tools,
            "default_sampling": dict(self.default_sampling),
        }
        entry = {"id": self.name, "object": "model", "created": self.created, "owned_by": self.owned_by, "luopan": own}
        return {**entry, "parent": self.parent} if self.parent else entry


def served_names(models: Sequence[str], names: Sequence[str] = ()) -> list[str]:
    """A name for each model: those given, or the last part of its path, or as many parts as tell them apart.

    ModelError for names that are given twice, are more than the models, or cannot stand in a request.
    """
    if len(names) > len(models):
        raise ModelError(f"{len(names)} names for {len(models)} models")
    parts = [_parts(model) for model in models[len(names) :]]
    lengths = [1] * len(parts)
    for _ in range(max(map(len, parts), default=0)):
        made = ["/".join(own[-length:]) for own, length in zip(parts, lengths)]
        clashes = [i for i, name in enumerate(made) if made.count(name) > 1 or name in names]
        lengths = [length + (i in clashes) for i, length in enumerate(lengths)]
    found = [*names, *("/".join(own[-length:]) for own, length in zip(parts, lengths))]
    for name in found:
        if found.count(name) > 1:
            raise ModelError(f"two models would be called {name!r}", hint="Tell them apart with --name, once for each.")
        if not name.strip() or not name.isprintable():
            raise ModelError(f"{name!r} cannot be a model's name")
    return found


def _parts(model: str) -> list[str]:
    """The parts of a path that tell what it is; a folder called "model" is called by what it lies in."""
    path = Path(model)
    parts = [part for part in (path.resolve() if path.exists() else path).parts if part != path.anchor]
    while len(parts) > 1 and parts[-1] in _GENERIC:
        parts.pop()
    return parts or [model]


class ModelLoader:
    """Reads models and adapters; bases are read once. `find`: from a name to its folder (`pipeline.model_folder`).

    dtype, quantize: how weights are held (`generate.weights.prepare`); adapters want a base that is not quantised.
    """

    def __init__(
        self, find: Callable[[str], Path], *, device: torch.device | str, max_batch: int,
        dtype: Precision = "float32", quantize: Quantise | None = None, speculation: Speculation | None = None,
    ) -> None:  # fmt: skip
        self.find, self.device, self.max_batch, self.dtype, self.quantize = find, device, max_batch, dtype, quantize
        self.speculation = speculation
        self._bases: dict[Path, Decoder] = {}

    def load(self, model: str, name: str, default_sampling: Callable[[str], Mapping[str, Any]]) -> ServedModel:
        """MODEL under a name. ModelError where it, or an adapter's base, cannot be used."""
        folder = Path(model)
        if not (folder / CONFIG).is_file():
            return self._served(name, self._base(self.find(model)), model, self.find(model), default_sampling(model))
        if self.quantize is not None:
            raise ModelError(
                "an adapter cannot be put on quantised weights", where=folder, hint="Leave --quantize out."
            )
        base_name = str(read_adapter_config(folder).get("base_model_name_or_path") or "")
        base = self._adapter_base(folder, base_name)
        decoder = sharing(self._base(base), but=_trained_in_full(folder))
        load_adapter(decoder, folder)
        own = (folder / "tokenizer.json").is_file()
        sampling = default_sampling(str(base))
        weight = next(self._base(base).parameters())
        said = f"{model}, adapter of {base_name}"
        return self._served(name, decoder.to(self.device, weight.dtype), said, folder if own else base, sampling)

    def _adapter_base(self, folder: Path, name: str) -> Path:
        if not name:
            raise ModelError("base_model_name_or_path does not say which model this adapter belongs to", where=folder)
        beside = folder / name
        try:
            return self.find(str(beside) if not Path(name).is_absolute() and beside.is_dir() else name)
        except LuopanError as error:
            hint = f"Its base is {name!r}. Put that where adapter_config.json says, or correct the path there."
            raise ModelError(f"the adapter's base cannot be found: {error.message}", where=folder, hint=hint) from error

    def _base(self, folder: Path) -> Decoder:
        folder = folder.resolve()
        if folder not in self._bases:
            self._bases[folder] = prepare(load_decoder(folder).to(self.device), self.dtype, self.quantize)
        return self._bases[folder]

    def _served(
        self, name: str, decoder: Decoder, description: str, tokenizer: Path, sampling: Mapping[str, Any]
    ) -> ServedModel:
        generator = TextGenerator(
            decoder.eval(), load_tokenizer(tokenizer), max_batch=self.max_batch, speculation=self.speculation
        )
        for parameter in decoder.parameters():
            parameter.requires_grad_(False)
        return ServedModel(name, generator, default_sampling=sampling, description=description)


def sharing(model: Decoder, but: Sequence[str] = ()) -> Decoder:
    """Another model around the same weights: modules of its own, the tensors in common, copies only of those `but`."""
    kept: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for name, parameter in model.named_parameters():
        if not any(other.endswith(name) for other in but):
            kept[id(parameter)] = parameter
    return copy.deepcopy(model, kept)


def _trained_in_full(folder: Path) -> list[str]:
    """Weights that the adapter replaces instead of adding to them; they would be overwritten in the base."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return [name.replace(".modules_to_save.default.", ".") for name in file.keys() if ".lora_" not in name]  # noqa: SIM118
    except (OSError, SafetensorError):
        return []  # `load_adapter` says what is wrong
