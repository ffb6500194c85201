"""What fine-tuning stages do alike: a model, with or without an adapter, opened, and saved when it is trained.

With an adapter the weights below it stay as they came; what goes on to later stages is the merged model, beside it the
adapter in PEFT's format. Whoever wants to keep one base and many adapters takes the latter.
"""

from __future__ import annotations

from pathlib import Path

import torch

from luopan.artifacts import Artifact
from luopan.model.adapter_config import AdapterConfig
from luopan.model.lora import AdapterSummary, attach, merged
from luopan.model.peft_files import save_adapter
from luopan.stages.base import Workspace
from luopan.stages.common import Chat, check_length, open_model, save_model

ADAPTER_FOLDER = "adapter"


def open_tuned(
    artifact: Artifact, device: torch.device, adapter: AdapterConfig | None, length: int, out: Workspace
) -> tuple[Chat, AdapterSummary | None]:
    """The model to train, and what its adapter comes to. RecipeError where it cannot read `length` tokens."""
    chat = open_model(artifact, device)
    check_length(length, chat)
    if adapter is None:
        return chat, None
    summary = attach(chat.model, adapter, out.seed)
    out.progress.note(summary.text)
    return chat, summary


def save_tuned(chat: Chat, source: Artifact, folder: Path, adapter: AdapterConfig | None) -> None:
    """Write `folder/model`, and `folder/adapter` where one was trained."""
    if adapter is None:
        save_model(chat, folder)
        return
    save_adapter(
        chat.model, folder / ADAPTER_FOLDER, str(source.model_path), adapter, base_content=source.manifest.content
    )
    with merged(chat.model):
        save_model(chat, folder)


def adapter_notes(summary: AdapterSummary | None) -> list[str]:
    """What an adapter comes to, for the report."""
    return [summary.text] if summary is not None else []
