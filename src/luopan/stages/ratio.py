"""The check before the first update: the trainer must see the probabilities that the engine sampled with.

The weights are the same, so the ratio of the two is 1 on every token, up to rounding. If it is not (another
temperature, another precision, masks or positions that differ), every update would be off, silently. Where it is not,
the settings are tried one by one, and the one that brings both together is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luopan.errors import TrainingError
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.scoring import token_logprobs
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.tokens.batch import Batch
from luopan.train.device import autocast
from luopan.train.losses import token_scores
from luopan.train.ranks import together

# Nats on a token. Cached and full passes round differently; in bf16 that is in the second digit.
RATIO_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
TEMPERATURES = tuple(step / 20 for step in range(1, 41))  # tried where another one may be to blame


@dataclass(frozen=True)
class Gap:
    """The token on which engine and trainer are furthest apart, in nats."""

    token: int
    engine: float
    trainer: float

    @property
    def size(self) -> float:
        return abs(self.engine - self.trainer)


def assert_ratio_is_one(chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec, out: Workspace) -> None:
    """TrainingError with both values and the setting that breaks it; of several processes on all.

    Nothing is compared where a run goes on: the weights are others then.
    """
    if (out.path / "checkpoints").exists():
        return
    batches = feed.micro_batches(0)
    gap = together(lambda: checked(chat, feed, spec, batches))
    if gap is not None:
        out.progress.note(f"Engine and trainer agree within {gap.size:.1e} nats before the first update.")


def checked(chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec, batches: Sequence[Batch]) -> Gap | None:
    """The largest gap of this rank's batches, None without any; TrainingError where it is too large."""
    gap = largest(chat, batches, spec.temperature, spec.precision)
    if gap is None or gap.size <= (allowed := tolerance(chat, spec.precision)):
        return gap
    word = chat.tokenizer.decode([gap.token])
    raise TrainingError(
        f"before the first update the engine gave the token {word!r} the log-probability {gap.engine:.4f} and the "
        f"trainer {gap.trainer:.4f}: their ratio is {math.exp(min(50.0, gap.trainer - gap.engine)):.3g} and not 1",
        where="rollouts",
        hint=blame(chat, feed, spec, batches, max(allowed, gap.size / 20)),
    )


def tolerance(chat: Chat, precision: str) -> float:
    """In nats, by what the trainer computes in."""
    with autocast(chat.device, precision):
        half = torch.is_autocast_enabled(chat.device.type)
    return RATIO_TOLERANCE[torch.bfloat16 if half else torch.float32]


@torch.no_grad()
def largest(chat: Chat, batches: Sequence[Batch], temperature: float, precision: str) -> Gap | None:
    """Over all trained tokens of the batches."""
    found: Gap | None = None
    for batch in batches:
        with autocast(chat.device, precision):
            scores = token_scores(chat.model, batch.to(chat.device), temperature)
        places = scores.places.cpu()
        if not places.numel():
            continue
        ours, theirs = scores.logprobs.float().cpu(), sampled(batch, places)
        worst = int((ours - theirs).abs().nan_to_num(torch.inf).argmax())
        gap = Gap(int(batch.labels.flatten()[places[worst]]), float(theirs[worst]), float(ours[worst]))
        if found is None or not gap.size <= found.size:
            found = gap
    return found


def sampled(batch: Batch, places: Tensor) -> Tensor:
    """What the engine said of the tokens at `places`."""
    name = "sampled_logprobs" if "sampled_logprobs" in batch.per_token else "old_logprobs"
    return batch.per_token[name].flatten()[places].float()


# ---- what is to blame ----


def blame(chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec, batches: Sequence[Batch], close: float) -> str:
    """The setting with which engine and trainer are within `close` nats."""
    for what, gap in trials(chat, feed, spec, batches):
        if gap is not None and gap() <= close:
            return what
    if spec.sampler.kind == "endpoint":
        return (
            "The server's log-probabilities are not those it draws by. Start vLLM with --logprobs-mode "
            "processed_logprobs; have any server hold its weights in the precision of the trainer."
        )
    return "No setting that was tried explains it: this is a fault of the program; please report it with the recipe."


def trials(
    chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec, batches: Sequence[Batch]
) -> Iterator[tuple[str, Callable[[], float] | None]]:
    """(what to say, the largest gap with it), the likeliest first."""

    def size(temperature: float, precision: str) -> float:
        gap = largest(chat, batches, temperature, precision)
        return gap.size if gap is not None else math.inf

    other = "fp32" if spec.precision != "fp32" else "bf16"
    yield (
        f"They agree with precision: {other} in the trainer: engine and trainer must compute in the same one "
        f"({spec.precision} is set).",
        lambda: size(spec.temperature, other),
    )
    yield (
        "They agree where each answer stands alone: packing is to blame (prompts that are shared, documents of a row "
        "that see each other). Please report it with the recipe.",
        lambda: alone(chat, feed, spec),
    )
    best = min(TEMPERATURES, key=lambda value: size(value, spec.precision))
    yield (
        f"They agree at temperature {best:g}: that is what the answers were sampled at, and the loss has temperature "
        f"{spec.temperature:g}. Both must be the same.",
        lambda: size(best, spec.precision),
    )


def alone(chat: Chat, feed: OnPolicyFeed, spec: OnPolicySpec) -> float:
    """The largest gap where no two answers share anything."""
    docs: list[Any] = [doc for unit in feed.units for doc in unit]
    worst = 0.0
    for doc in docs:
        (column,) = token_logprobs(
            chat.model, [doc], temperature=spec.temperature, max_length=len(doc), pad_id=chat.pad_id,
            precision=spec.precision,
        )  # fmt: skip
        theirs = doc.per_token["sampled_logprobs" if "sampled_logprobs" in doc.per_token else "old_logprobs"]
        trained = [place for place, label in enumerate(doc.labels) if label != -100]
        worst = max([worst, *(abs(float(column[place]) - float(theirs[place])) for place in trained)])
    return worst
