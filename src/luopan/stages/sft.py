"""Supervised fine-tuning: a base model learns the chat format and the skills of the mixture.

Only what the assistant says is trained (its stop token included). Measured before and after on held-out cases: skills,
format, stop rate; and, where a corpus is named, what fine-tuning makes the model forget of its text.
"""

from __future__ import annotations

from typing import Any, ClassVar

from luopan.artifacts import atomic_write_text
from luopan.recipe.sft_specs import SftSpec
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    check_length,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
    with_steps,
)
from luopan.stages.conversations import ChatData, chat_data, mixture_table, set_aside_note, set_aside_report
from luopan.stages.handover import file_fingerprint, metrics_of, write_report
from luopan.stages.measure import check_skill, check_suite, samples_of, skill_bars, suite_after, suite_figures, suite_of
from luopan.stages.packed import PackedFeed
from luopan.stages.text import forgetting_figures, text_bits
from luopan.tokens.packing import pack, padding_share
from luopan.tokens.show import render_mask
from luopan.train.losses import causal_lm_loss
from luopan.train.preflight import check_training
from luopan.train.ranks import leader_first
from luopan.train.schedule import first_row

HEADLINE = ("skills, mean", "stop rate", "thinks when asked", "silent when not")


class Sft:
    """See the module."""

    kind: ClassVar[str] = "sft"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: SftSpec) -> str:
        return file_fingerprint(source.path for source in spec.data)

    @staticmethod
    def check(spec: SftSpec) -> None:
        check_training(spec)
        for source in spec.data:
            if source.skill is not None:
                check_skill(source.skill, source.options, source.thinking)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: SftSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        chat = open_model(inputs["model"][0], device)
        check_length(spec.max_length, chat)
        corpus = inputs["corpus"][0] if "corpus" in inputs else None
        data = chat_data(
            chat.tokenizer, spec.data, seed=out.seed, max_length=spec.max_length, multi_turn=spec.multi_turn
        )
        if note := set_aside_note(data):
            out.progress.note(note)
        leader_first(lambda: write_trained_sample(data, chat.tokenizer, out))

        def measure(suite: dict[str, Any]) -> dict[str, Any]:
            bits = text_bits(chat, corpus, spec.eval_bytes, spec.max_length) if corpus else {}
            return {"suite": suite, "bits": bits}

        rows = pack(data.examples, spec.max_length, packing=spec.packing)
        config = with_steps(spec, len(rows))
        source = inputs["model"][0]
        before = out.remember("before", lambda: measure(suite_of(source, chat, spec.suite)))
        feed = PackedFeed(rows, spec.max_length, chat.pad_id, config, out.seed)
        result = train(chat, feed, causal_lm_loss, config, out)
        after = measure(suite_after(out.path, chat, spec.suite))
        save_model(chat, out.path)
        figures = suite_figures(before["suite"], after["suite"], headline=HEADLINE)
        figures += forgetting_figures(before["bits"], after["bits"])
        epochs = first_row(config, config.max_steps) / len(rows)
        report = training_report(
            "sft",
            out.name,
            chat,
            result,
            spec.max_length,
            notes=[f"{padding_share(rows, spec.max_length):.1%} of the positions are padding."],
            summary=f"{len(data.examples)} conversations in {len(rows)} rows of {spec.max_length} tokens, "
            f"{epochs:.1f} epochs; only the assistant's words are trained.",
            figures=figures,
            pictures=[skill_bars("Held-out skills", before["suite"], after["suite"], (chat.origin, out.name))],
            tables=[mixture_table(data)],
            samples=samples_of(after["suite"], out.name),
            set_aside=set_aside_report(out.name, data),
        )
        write_report(out.path, report)
        return metrics_of(
            figures, **fit_metrics(result), conversations=len(data.examples), set_aside=len(data.set_aside)
        )


def write_trained_sample(data: ChatData, tokenizer: Any, out: Workspace) -> None:
    """A look at what is trained: one example per source, decoded, trained text marked."""
    seen: dict[str, str] = {}
    for example, source in zip(data.examples, data.sources):
        if source not in seen:
            seen[source] = render_mask(tokenizer, example)
    text = "\n".join(f"## {source}\n\n```text\n{shown}\n```\n" for source, shown in seen.items())
    atomic_write_text(out.path / "samples.md", f"# What is trained (between ⟦ and ⟧)\n\n{text}")
