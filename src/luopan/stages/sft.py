"""Supervised fine-tuning: a base model learns the chat format and the skills of the mixture.

Only what the assistant says is trained (its stop token included). Measured before and after on held-out cases: skills,
format, stop rate; and, where a corpus is named, what fine-tuning makes the model forget of its text.
"""

from __future__ import annotations

from typing import Any, ClassVar

from luopan.artifacts import atomic_write_text
from luopan.recipe.sft_specs import SftSpec
from luopan.report.data import Note
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    fit_metrics,
    start_device,
    train,
    training_report,
    with_steps,
)
from luopan.stages.conversations import (
    ChatData,
    chat_data,
    data_notes,
    mixture_table,
    mode_table,
    set_aside_note,
    set_aside_report,
)
from luopan.stages.forgetting import (
    check_forgetting,
    general_figures,
    general_notes,
    general_samples,
    measure_general,
)
from luopan.stages.handover import file_fingerprint, metrics_of, sources_fingerprint, write_report
from luopan.stages.held_out import HeldOut, held_out_figures, held_out_notes
from luopan.stages.measure import check_skill, check_suite, samples_of, skill_bars, suite_after, suite_figures, suite_of
from luopan.stages.packed import PackedFeed
from luopan.stages.packing_report import measure_packing, packing_notes, packing_table
from luopan.stages.replay import add_replay, prompt_files
from luopan.stages.text import forgetting_figures, text_bits
from luopan.stages.tuning import adapter_notes, open_tuned, save_tuned
from luopan.tokens.packing import pack
from luopan.tokens.show import render_mask
from luopan.train.loop import LossFn
from luopan.train.losses import causal_lm_loss
from luopan.train.preflight import check_training
from luopan.train.ranks import leader_first

TRAINED = {
    "assistant": "only the assistant's words are trained",
    "last_turn": "only the assistant's last turn is trained",
    "all": "every token is trained, the user's too",
}
HEADLINE = ("skills, mean", "stop rate", "thinks when asked", "silent when not")


class Sft:
    """See the module."""

    kind: ClassVar[str] = "sft"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: SftSpec) -> str:
        replayed = spec.replay.prompts if spec.replay else None
        kept = spec.forgetting.prompts if spec.forgetting else None
        return sources_fingerprint(spec.data) + file_fingerprint(prompt_files(replayed, kept))

    @staticmethod
    def check(spec: SftSpec) -> None:
        check_training(spec)
        for source in spec.data:
            if source.skill is not None:
                check_skill(source.skill, source.options, source.thinking)
        check_suite(spec.suite)
        check_forgetting(spec.replay, spec.forgetting)

    @staticmethod
    def run(spec: SftSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        source = inputs["model"][0]
        corpus = inputs["corpus"][0] if "corpus" in inputs else None
        chat, adapter = open_tuned(source, start_device(), spec.adapter, spec.max_length, out)
        data = read_data(spec, chat, out)

        loss: LossFn = causal_lm_loss
        if spec.replay is not None:
            loss = add_replay(data, chat, source, spec.replay, spec.max_length, out)

        def measure(suite: dict[str, Any]) -> dict[str, Any]:
            bits = text_bits(chat, corpus, spec.eval_bytes, spec.max_length) if corpus else {}
            general = measure_general(chat, source, spec.forgetting, out) if spec.forgetting else None
            loss = held.loss(chat.model) if held else None
            return {"suite": suite, "bits": bits, "general": general, "held_out": loss}

        rows = pack(data.examples, spec.max_length, packing=spec.packing)
        capacity = spec.max_length if spec.packing else None
        config = with_steps(spec, len(rows))
        packing = measure_packing(rows, config, capacity)
        held = HeldOut(data.held, data.held_sources, spec.max_length, chat, config) if data.held else None
        for warning in packing_notes(packing):
            out.progress.note(warning.text)
        before = out.remember("before", lambda: measure(suite_of(source, chat, spec.suite)))
        feed = PackedFeed(rows, capacity, chat.pad_id, config, out.seed, group_by_length=spec.group_by_length)
        result = train(chat, feed, loss, config, out, hooks=[held.hook(config.max_steps)] if held else [])
        save_tuned(chat, source, out.path, spec.adapter)
        after = measure(suite_after(out.path, chat, spec.suite))
        figures = suite_figures(before["suite"], after["suite"], headline=HEADLINE)
        figures += forgetting_figures(before["bits"], after["bits"])
        kept_notes: list[Note] = []
        if held:
            figures += held_out_figures(before["held_out"], after["held_out"])
            kept_notes += held_out_notes(out.path, len(data.held), config.ema_decay is not None)
        samples = samples_of(after["suite"], out.name)
        if spec.forgetting is not None:
            figures += general_figures(before["general"], after["general"], spec.forgetting)
            kept_notes += general_notes(before["general"], after["general"], spec.forgetting)
            samples += general_samples(before["general"], after["general"], (chat.origin, out.name))
        report = training_report(
            "sft",
            out.name,
            chat,
            result,
            spec.max_length,
            notes=[*kept_notes, *data_notes(data), *packing_notes(packing), *adapter_notes(adapter)],
            summary=f"{len(data.examples)} conversations in {len(rows)} rows, {packing.epochs:.1f} epochs; "
            f"{TRAINED[spec.train_on]}.",
            figures=figures,
            pictures=[skill_bars("Held-out skills", before["suite"], after["suite"], (chat.origin, out.name))]
            if spec.suite.tests
            else [],
            tables=[mixture_table(data), *filter(None, [mode_table(data)]), packing_table(packing, capacity)],
            samples=samples,
            set_aside=set_aside_report(out.name, data),
        )
        write_report(out.path, report)
        return metrics_of(
            figures, **fit_metrics(result), conversations=len(data.examples), set_aside=len(data.set_aside)
        )


def read_data(spec: SftSpec, chat: Chat, out: Workspace) -> ChatData:
    """The conversations; how they were read is said, and a sample of what is trained written down."""
    data = chat_data(
        chat.tokenizer,
        spec.data,
        seed=out.seed,
        max_length=spec.max_length,
        multi_turn=spec.multi_turn,
        train_on=spec.train_on,
        truncation=spec.truncation,
        test_conversations=spec.test_conversations,
    )
    for note in [set_aside_note(data), *data_notes(data)]:
        if note:
            out.progress.note(note)
    leader_first(lambda: write_trained_sample(data, chat.tokenizer, out))
    return data


def write_trained_sample(data: ChatData, tokenizer: Any, out: Workspace) -> None:
    """A look at what is trained: one example per source, decoded, trained text marked."""
    seen: dict[str, str] = {}
    for example, source in zip(data.examples, data.sources):
        if source not in seen:
            seen[source] = render_mask(tokenizer, example)
    text = "\n".join(f"## {source}\n\n```text\n{shown}\n```\n" for source, shown in seen.items())
    atomic_write_text(out.path / "samples.md", f"# What is trained (between ⟦ and ⟧)\n\n{text}")
