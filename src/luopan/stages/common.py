"""What the stages that train do alike: load and save a model, count steps and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.recipe.epochs import EpochConfig
from luopan.report.data import Note, StageReport
from luopan.stages.base import Workspace
from luopan.stages.packed import PackedFeed
from luopan.tokens.chat import stop_ids
from luopan.tokens.tokenizer import load_tokenizer, save_tokenizer
from luopan.train.config import TrainConfig
from luopan.train.device import pick_device, tune_allocator
from luopan.train.loop import Feed, FitResult, Hook, LossFn, OnLog, fit
from luopan.train.packed_check import check_packed
from luopan.train.ranks import leave_to_leader
from luopan.train.schedule import steps_for_rows

MODEL_PAYLOAD = ("model",)
LONG = 1_000_000  # steps, where their number is not known yet


@dataclass
class Chat:
    """A model with its tokenizer, on the device it runs on."""

    model: Decoder
    tokenizer: Any
    device: torch.device
    origin: str = field(default="")

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)


def start_device() -> torch.device:
    """The device that stages run on, with the allocator set up before the first large allocation."""
    device = pick_device()
    if device.type == "cpu":
        tune_allocator()
    return device


def open_model(artifact: Artifact, device: torch.device) -> Chat:
    """The model and tokenizer of a finished stage, in fp32 on `device`."""
    model = hf.load(artifact.model_path).to(device)
    return Chat(model, load_tokenizer(artifact.model_path), device, artifact.manifest.name)


def save_model(chat: Chat, folder: Path) -> None:
    """Write `folder/model`: a Hugging Face folder with weights, configuration, tokenizer and chat template."""
    hf.save(
        chat.model,
        folder / "model",
        architecture="auto",  # our own form where no family of transformers' can express the model
        eos_token_id=stop_ids(chat.tokenizer),
        pad_token_id=chat.pad_id,
    )
    save_tokenizer(chat.tokenizer, folder / "model")


def training_flops(model: Decoder, tokens: int, length: int) -> float:
    """Forward and backward FLOPs of `tokens` tokens at sequence length `length`."""
    return float(model.config.flops_per_token(length)) * tokens


def with_steps(spec: EpochConfig, rows: int) -> TrainConfig:
    """The training configuration of a spec over so many packed rows: its steps, or those that make up its epochs."""
    steps = spec.max_steps
    if steps is None:
        seen = rows * (spec.num_train_epochs or 1.0)
        if spec.batch_warmup_steps is None:
            steps = max(1, round(seen / spec.rows_per_step))
        else:
            steps = steps_for_rows(spec.with_steps(LONG), max(1, round(seen)))
    return spec.with_steps(steps)


def train(
    chat: Chat,
    feed: Feed,
    loss_fn: LossFn,
    config: TrainConfig,
    out: Workspace,
    *,
    seed: int | None = None,
    hooks: Sequence[Hook] = (),
    branch: Path | None = None,
    on_log: OnLog | None = None,
) -> FitResult:
    """`fit` in a stage's folder, with its seed, progress and deadline. Of several processes rank 0 alone comes back.

    Packed rows are checked first: TrainingError where their documents see each other.
    """
    if isinstance(feed, PackedFeed):
        check_packed(chat.model, feed.rows, chat.pad_id, config, chat.device)
    result = fit(
        chat.model,
        feed,
        loss_fn,
        config,
        out.path,
        device=chat.device,
        seed=out.seed if seed is None else seed,
        progress=out.progress,
        hooks=hooks,
        stop_at=out.stop_at,
        branch=branch,
        on_log=on_log,
    )
    leave_to_leader()
    return result


def training_report(
    kind: str, name: str, chat: Chat, result: FitResult, length: int, *, notes: Sequence[str | Note] = (), **parts: Any
) -> StageReport:
    """A training stage's part of the report: its own `parts`, and what every training says of its cost."""
    return StageReport(
        kind=kind,
        name=name,
        notes=[note if isinstance(note, Note) else Note(text=note) for note in (*result.notes, *notes)],
        flops=training_flops(chat.model, result.tokens, length),
        tokens=result.tokens,
        parameters=chat.model.config.num_parameters(),
        **parts,
    )


def fit_metrics(result: FitResult) -> dict[str, Any]:
    """What every training says of itself in the manifest."""
    return {
        "steps": result.steps,
        "tokens": result.tokens,
        "training_seconds": round(result.seconds, 2),
        "tokens_per_second": round(result.tokens / result.seconds, 1) if result.seconds else None,
        "skipped_steps": result.skipped_steps,
        "rewinds": result.rewinds,
        "expected_memory_bytes": result.expected_memory_bytes,
        "final_loss": result.last.get("loss"),
        "resumed_from": result.resumed_from,
    }


def check_vocabulary(size: int, tokenizer: Any, stage: str) -> None:
    """A model's vocabulary has to be its tokenizer's."""
    if len(tokenizer) != size:
        raise RecipeError(
            f"model.vocab_size is {size}, the tokenizer has {len(tokenizer)} tokens",
            hint=f"Set {stage}.model.vocab_size={len(tokenizer)}",
        )


def check_length(length: int, chat: Chat, key: str = "max_length") -> None:
    """A row that is longer than the model's context would train positions that it has never seen and cannot use."""
    context = chat.model.config.max_position_embeddings
    if length > context:
        raise RecipeError(
            f"{key} {length} is longer than the context of {chat.origin} ({context} tokens)",
            hint=f"Set {key} to at most {context}, or extend the context in a midtrain stage first.",
        )
