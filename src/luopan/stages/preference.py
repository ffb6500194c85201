"""Preference optimisation: a fine-tuned model learns which answers are the better ones.

The reference is the input artifact itself (or another stage): its log-probabilities are computed once, before training,
and kept on the disk, so a resumed run can never take a half-trained policy for the reference. The two answers of a pair
share a row, and their prompt where it is the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.model.lora import adapters_off
from luopan.objectives.config import loss_types, needs_reference
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    fit_metrics,
    open_model,
    start_device,
    train,
    training_report,
    with_steps,
)
from luopan.stages.conversations import by_reason
from luopan.stages.handover import metrics_of, sources_fingerprint, write_report
from luopan.stages.measure import check_suite, samples_of, skill_bars, suite_after, suite_of
from luopan.stages.packed import PackedFeed
from luopan.stages.packing_report import steps_note
from luopan.stages.preference_data import (
    Aside,
    Rows,
    encode_labelled,
    encode_pairs,
    labelled_rows,
    load_pairs,
    load_unpaired,
    pair_rows,
)
from luopan.stages.preference_figures import drift, judged, own_answers, preference_figures, sampled_answers
from luopan.stages.reference import reference_logprobs, score_rows, with_reference
from luopan.stages.tuning import adapter_notes, open_tuned, save_tuned
from luopan.train.losses import kto_loss, preference_loss
from luopan.train.preflight import check_training


class Preference:
    """See the module."""

    kind: ClassVar[str] = "preference"
    version: ClassVar[int] = 3
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: PreferenceSpec) -> str:
        return sources_fingerprint(spec.data)

    @staticmethod
    def check(spec: PreferenceSpec) -> None:
        check_training(spec)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: PreferenceSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        source = inputs["model"][0]
        chat, adapter = open_tuned(source, start_device(), spec.adapter, spec.max_length, out)
        answers = prepare(chat, spec, out)
        for note in answers.notes:
            out.progress.note(note)
        test_reference = None
        rows = answers.train
        if needs_reference(spec.loss_type):
            holder = inputs["reference"][0] if "reference" in inputs else source
            train_scores, test_reference = _reference(chat, spec, answers, holder, source, out)
            rows = with_reference(rows, train_scores)
        config = with_steps(spec, len(rows))
        steps = steps_note(answers.count, "answers" if spec.unpaired else "pairs", len(rows), config)
        out.progress.note(steps.text)

        def measure(suite: dict[str, Any]) -> dict[str, Any]:
            found = judged(answers.test, score_rows(chat.model, answers.test, chat, config), test_reference)
            return {"suite": suite, **found, **(sampled_answers(chat, spec) if _sampled(spec) else {})}

        before = out.remember("before", lambda: measure(suite_of(source, chat, spec.suite)))
        capacity = answers.capacity
        feed = PackedFeed(rows, capacity, chat.pad_id, config, out.seed, count_pairs=not spec.unpaired)
        result = train(chat, feed, loss_of(spec), config, out)
        save_tuned(chat, source, out.path, spec.adapter)
        after = measure(suite_after(out.path, chat, spec.suite))
        if test_reference is not None:
            after |= _drift(chat, answers, config, inputs, spec)
        figures = preference_figures(before, after, referenced=test_reference is not None)
        report = training_report(
            "preference",
            out.name,
            chat,
            result,
            capacity,
            notes=[steps, *answers.notes, *adapter_notes(adapter)],
            summary=f"{answers.count} {'answers' if spec.unpaired else 'pairs'}, "
            f"{', '.join(loss_types(spec.loss_type))}, beta {spec.beta:g}; "
            + (f"the reference is {_name(inputs)}." if test_reference else "no reference."),
            figures=figures,
            pictures=[skill_bars("Held-out skills", before["suite"], after["suite"], (chat.origin, out.name))]
            if spec.suite.tests
            else [],
            samples=samples_of(after["suite"], out.name),
            set_aside=by_reason(answers.aside, out.name, "pairs", answers.count + answers.held + len(answers.aside)),
        )
        write_report(out.path, report)
        return metrics_of(figures, **fit_metrics(result), pairs=answers.count, set_aside=len(answers.aside))


@dataclass(frozen=True)
class Answers:
    """Rows to train on and held-out ones, of at most `capacity` tokens, and what became of the others."""

    train: Rows
    test: Rows
    capacity: int
    count: int
    held: int
    prompts: list[list[int]]
    aside: Aside
    notes: list[str]


def prepare(chat: Chat, spec: PreferenceSpec, out: Workspace) -> Answers:
    """The answers of a spec as rows. DataError where none is left."""
    aside: Aside = []
    notes: list[str] = []
    # Room for the longest pair, or for several answers that give each other a mismatched prompt.
    capacity = (4 if spec.unpaired else 2) * spec.max_length
    sides: list[Rows] = []
    counts, prompts = [], []
    if spec.unpaired:
        for part in load_unpaired(spec, out.seed, aside, notes):
            labelled = encode_labelled(chat.tokenizer, part, spec.max_length, aside)
            sides.append(labelled_rows(labelled, capacity, spec.max_length, share=spec.share_prompts))
            counts.append(len(labelled))
            prompts.append([answer.asked for answer, _ in labelled])
        alone = sum(not any(doc.fields["mismatched"] for doc in row) for row in sides[0])
        if alone:
            notes.append(f"{alone} of {len(sides[0])} rows hold answers to a single prompt: the KL in them counts as 0")
    else:
        loaded = load_pairs(spec.data, spec.pairs, spec.flaw, spec.test_pairs, out.seed, aside, notes)
        for some in loaded:
            pairs = encode_pairs(chat.tokenizer, some, spec.max_length, aside)
            sides.append(pair_rows(pairs, capacity, share=spec.share_prompts))
            counts.append(len(pairs))
            prompts.append([chosen.asked for chosen, _ in pairs])
    if aside:
        notes.append(f"{len(aside)} rows are set aside, such as {aside[0][0]}: {aside[0][1]}")
    return Answers(sides[0], sides[1], capacity, counts[0], counts[1], prompts[1], aside, notes)


def loss_of(spec: PreferenceSpec) -> Callable[..., Any]:
    """The objective with the knobs that are set; it refuses those that would have no effect."""
    if spec.unpaired:
        good, bad = spec.desirable_weight, spec.undesirable_weight
        return partial(kto_loss, beta=spec.beta, desirable_weight=good, undesirable_weight=bad)
    knobs: dict[str, Any] = {"beta": spec.beta, "loss_type": spec.loss_type}
    # As they are, and not only where they are true: a simpo_gamma of 0 is not its default.
    knobs |= {name: getattr(spec, name) for name in ("label_smoothing", "nll_coef", "loss_weights", "simpo_gamma")}
    return partial(preference_loss, **knobs)


def _reference(
    chat: Chat, spec: PreferenceSpec, answers: Answers, holder: Artifact, source: Artifact, out: Workspace
) -> tuple[list[list[float]], list[list[float]]]:
    """The reference's log-probabilities of the training and of the held-out rows."""
    other = chat if holder is source else open_other(holder, chat)
    # A frozen base in 8 or 4 bits does not answer as the same weights in full.
    held = spec.adapter.base if spec.adapter is not None and other is chat else "fp32"
    config = with_steps(spec, len(answers.train))
    with adapters_off(other.model):
        train_scores = reference_logprobs(other, holder, answers.train, config, out, held)
        return train_scores, reference_logprobs(other, holder, answers.test, config, out, held)


def open_other(holder: Artifact, chat: Chat) -> Chat:
    """The reference model of another stage. RecipeError where its tokens mean something else."""
    other = open_model(holder, chat.device)
    if other.tokenizer.get_vocab() != chat.tokenizer.get_vocab():
        raise RecipeError(
            f"the reference {other.origin} has another tokenizer than {chat.origin}, so it cannot score its tokens",
            hint="Name a stage of the same family in `reference`, or leave it out.",
        )
    return other


def _drift(chat: Chat, answers: Answers, config: Any, inputs: Inputs, spec: PreferenceSpec) -> dict[str, Any]:
    """How far the policy has moved from the reference, on its own answers."""
    rows = own_answers(chat, answers.prompts)
    if not rows:
        return {}
    mine = score_rows(chat.model, rows, chat, config)
    if spec.adapter is not None and "reference" not in inputs:
        with adapters_off(chat.model):
            theirs = score_rows(chat.model, rows, chat, config)
    else:
        holder = inputs["reference"][0] if "reference" in inputs else inputs["model"][0]
        theirs = score_rows(open_model(holder, chat.device).model, rows, chat, config)
    return {"drift": drift(mine, theirs), "own": len(rows), "from_itself": "reference" not in inputs}


def _sampled(spec: PreferenceSpec) -> bool:
    """Whether the pairs have a criterion to sample by."""
    return not spec.data and spec.flaw_cases > 0


def _name(inputs: Inputs) -> str:
    return (inputs["reference"][0] if "reference" in inputs else inputs["model"][0]).manifest.name
