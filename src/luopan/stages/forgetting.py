"""What fine-tuning must leave as it was: general prompts and ordinary text, before and after, side by side.

The model answers held-out prompts as it comes, at temperature 1; the perplexity of those answers before and after
tells how far its distribution has moved, whatever the answers are worth. The perplexity of ordinary text does the same
outside the chat format. Greedy answers to the same prompts, before and after, go into the report, and those that hold
a word they should not (the name that was just taught) are counted.

Limits: sixty prompts in plain English; a rise of perplexity says that something moved, not that it got worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from luopan.artifacts import Artifact
from luopan.corpus.packaged import check_packaged, read_packaged
from luopan.corpus.packaged import registry as packaged_texts
from luopan.errors import RecipeError
from luopan.evals.bits import bits_per_byte
from luopan.evals.perplexity import Perplexity, answer_perplexity
from luopan.evals.verifiers import has_phrase
from luopan.generate.config import SamplingParams
from luopan.generate.replies import reply_text
from luopan.recipe.replay_specs import ForgettingSpec, ReplaySpec
from luopan.report.data import Answer, Figure, Message, Note, Sample
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.stages.measure import SUITE_SEED, engine_of
from luopan.stages.replay import replay_prompts, replies

TEXT_WINDOW = 1024  # tokens
SHOWN = 16  # answers side by side in the report


def check_forgetting(replay: ReplaySpec | None, forgetting: ForgettingSpec | None) -> None:
    """LuopanError for prompts or a text that there are not: before compute, not after."""
    if replay is not None:
        replay_prompts(replay.prompts, 1, "train")
    if forgetting is None:
        return
    replay_prompts(forgetting.prompts, 1, "test")
    if forgetting.text is not None:
        if forgetting.text not in packaged_texts():
            known = ", ".join(packaged_texts())
            raise RecipeError(f"there is no packaged text {forgetting.text!r}", hint=f"There are: {known}.")
        check_packaged(forgetting.text)


def measure_general(chat: Chat, source: Artifact, spec: ForgettingSpec, out: Workspace) -> dict[str, Any]:
    """Plain data: sums behind the perplexities, and greedy answers. `source` is the model that training began with.

    Its answers are made at the first call, which therefore comes before training.
    """
    prompts = replay_prompts(spec.prompts, spec.cases, "test")
    drawn = SamplingParams(max_new_tokens=spec.max_new_tokens, temperature=1.0)
    said = replies(chat, source, prompts, drawn, "test", out)
    asked = [reply.prompt for reply in said]
    general = answer_perplexity(chat.model, asked, [reply.answer for reply in said])
    greedy = SamplingParams(max_new_tokens=spec.max_new_tokens, temperature=0.0)
    completions = engine_of(chat).generate(asked, greedy, seed=SUITE_SEED)
    texts = [reply_text(chat.tokenizer, c.tokens, prompt).strip() for c, prompt in zip(completions, asked, strict=True)]
    return {
        "general": [general.nats, general.tokens],
        "text": _text_sums(chat, spec),
        "prompts": [list(messages) for messages in prompts],
        "answers": [[text, c.finish_reason] for text, c in zip(texts, completions)],
    }


def _text_sums(chat: Chat, spec: ForgettingSpec) -> list[float] | None:
    if spec.text is None:
        return None
    length = min(TEXT_WINDOW, chat.model.config.max_position_embeddings)
    bits = bits_per_byte(chat.model, chat.tokenizer, _texts(spec), length=length, overlap=0)
    return [bits.nats, bits.tokens]


def _texts(spec: ForgettingSpec) -> list[str]:
    assert spec.text is not None
    found, size = [], 0
    for document in islice(read_packaged(spec.text), 10_000):
        text = document.text[: max(0, spec.text_bytes - size)]
        found.append(text)
        size += len(text.encode())
        if size >= spec.text_bytes:
            break
    return found


def strays(result: Mapping[str, Any], spec: ForgettingSpec) -> float:
    """The share of the answers that hold a word they should not."""
    texts = [text for text, _ in result["answers"]]
    return sum(any(has_phrase(text, word) for word in spec.strays) for text in texts) / len(texts)


def general_figures(before: Mapping[str, Any], after: Mapping[str, Any], spec: ForgettingSpec) -> list[Figure]:
    """Perplexities before and after, their rise, and the answers with a word that does not belong."""
    figures = []
    for key, name, text in (
        ("general", "perplexity, general prompts", "of the starting model's own answers, drawn at temperature 1"),
        ("text", "perplexity, ordinary text", f"of {spec.text}, outside the chat format"),
    ):
        if before.get(key) is None:
            continue
        old, new = Perplexity(*before[key]), Perplexity(*after[key])
        figures.append(
            Figure(
                name=name,
                before=old.value,
                after=new.value,
                higher_is_better=False,
                n=old.tokens,
                help=f"{text}; {old.rise(new):+.1%}",
            )
        )
    if spec.strays:
        figures.append(
            Figure(
                name="answers that stray",
                before=strays(before, spec),
                after=strays(after, spec),
                unit="%",
                higher_is_better=False,
                headline=False,
                n=len(after["answers"]),
                help=f"answers to general prompts that hold {' or '.join(spec.strays)}",
            )
        )
    return figures


def general_notes(before: Mapping[str, Any], after: Mapping[str, Any], spec: ForgettingSpec) -> list[Note]:
    """Whether perplexity stayed within the tolerance."""
    rises = {
        name: Perplexity(*before[key]).rise(Perplexity(*after[key]))
        for key, name in (("general", "general prompts"), ("text", "ordinary text"))
        if before.get(key) is not None
    }
    said = ", ".join(f"{name} {rise:+.1%}" for name, rise in rises.items())
    if max(rises.values()) <= spec.tolerance:
        return [Note(text=f"Perplexity against the model before: {said}.", level="good")]
    return [
        Note(
            text=f"Perplexity rose by more than {spec.tolerance:.0%}: {said}. A lower learning rate, fewer epochs or "
            "more replay examples forget less.",
            level="warning",
        )
    ]


def general_samples(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str], limit: int = SHOWN
) -> list[Sample]:
    """The same prompts answered by the model before and after."""
    samples = []
    for messages, old, new in islice(zip(before["prompts"], before["answers"], after["answers"]), limit):
        answers = {name: Answer(text=text, finish_reason=end) for name, (text, end) in zip(names, (old, new))}
        shown = [Message(role=m["role"], content=m["content"]) for m in messages]
        samples.append(Sample(messages=shown, answers=answers, group="general prompts"))
    return samples
