"""Preference optimisation: a fine-tuned model learns which of two answers is the better one.

The reference is the input artifact itself: its log-probabilities are computed once, before training, and kept, so a
resumed run can never take a half-trained policy for the reference. Judged by sampling: margins and pair accuracy go on
improving while a model collapses, so what counts is how often the flaw is still sampled on held-out questions, and
whether the skills have survived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from luopan.artifacts import stable_hash
from luopan.corpus.skills import flaw_cases, generate_cases, generate_pairs
from luopan.errors import DataError
from luopan.evals.skills import standard_error
from luopan.evals.verifiers import grade
from luopan.generate.config import SamplingParams
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.report.data import Figure
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    check_length,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
    with_steps,
)
from luopan.stages.conversations import by_reason, odd_columns
from luopan.stages.handover import file_fingerprint, metrics_of, write_report
from luopan.stages.measure import (
    SUITE_SEED,
    check_suite,
    engine_of,
    samples_of,
    skill_bars,
    suite_after,
    suite_figures,
    suite_of,
)
from luopan.stages.packed import PackedFeed, pack_pairs
from luopan.stages.rows import read_rows
from luopan.tokens.batch import collate
from luopan.tokens.chat import Conversation, encode_chats, encode_prompts
from luopan.tokens.example import Example
from luopan.train.device import autocast
from luopan.train.losses import preference_loss, sequence_logprobs
from luopan.train.preflight import check_training

EncodedPair = tuple[Example, Example]


class Preference:
    """See the module."""

    kind: ClassVar[str] = "preference"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: PreferenceSpec) -> str:
        return file_fingerprint([spec.path])

    @staticmethod
    def check(spec: PreferenceSpec) -> None:
        check_training(spec)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: PreferenceSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        chat = open_model(inputs["model"][0], device)
        check_length(spec.max_length, chat)
        aside: list[tuple[str, str]] = []
        learned, test = _pairs(spec, out.seed, aside)
        train_pairs = encode_pairs(chat, learned, spec.max_length, aside)
        test_pairs = encode_pairs(chat, test, spec.max_length, aside)
        if aside:
            out.progress.note(f"{len(aside)} rows are set aside, such as {aside[0][0]}: {aside[0][1]}")
        reference = out.remember("reference", lambda: _scores(chat, train_pairs, spec))
        test_reference = out.remember("test_reference", lambda: _scores(chat, test_pairs, spec))
        source = inputs["model"][0]
        before = out.remember(
            "before",
            lambda: {
                "suite": suite_of(source, chat, spec.suite),
                **_measure(chat, spec, test_pairs, test_reference),
            },
        )
        rows = pack_pairs(_with_reference(train_pairs, reference), 2 * spec.max_length)
        config = with_steps(spec, len(rows))
        feed = PackedFeed(rows, 2 * spec.max_length, chat.pad_id, config, out.seed, count_pairs=True)
        result = train(chat, feed, partial(preference_loss, **knobs_of(spec)), config, out)
        after = {
            "suite": suite_after(out.path, chat, spec.suite),
            **_measure(chat, spec, test_pairs, test_reference),
        }
        save_model(chat, out.path)
        figures = _figures(before, after)
        report = training_report(
            "preference",
            out.name,
            chat,
            result,
            2 * spec.max_length,
            summary=f"{len(train_pairs)} pairs, {spec.loss_type}, beta {spec.beta:g}; the reference is {chat.origin}.",
            figures=figures,
            pictures=[skill_bars("Held-out skills", before["suite"], after["suite"], (chat.origin, out.name))]
            if spec.suite.tests
            else [],
            samples=samples_of(after["suite"], out.name),
            set_aside=by_reason(aside, out.name, "pairs", len(train_pairs) + len(test_pairs) + len(aside)),
        )
        write_report(out.path, report)
        return metrics_of(figures, **fit_metrics(result), pairs=len(train_pairs), set_aside=len(aside))


def knobs_of(spec: PreferenceSpec) -> dict[str, Any]:
    """The objective's knobs that are set; it refuses those that would have no effect."""
    knobs: dict[str, Any] = {"beta": spec.beta, "loss_type": spec.loss_type}
    optional = {"label_smoothing": spec.label_smoothing, "nll_coef": spec.nll_coef}
    return knobs | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True)
class PairRow:
    """A pair before tokenisation; `where` is "file:line" or "pair #n"."""

    prompt: Sequence[Mapping[str, Any]]
    chosen: Mapping[str, Any]
    rejected: Mapping[str, Any]
    where: str
    enable_thinking: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None


def _pairs(spec: PreferenceSpec, seed: int, aside: list[tuple[str, str]]) -> tuple[list[PairRow], list[PairRow]]:
    """Training and held-out pairs: procedural ones, or the rows of the user's file, split by a hash of the prompt."""
    if spec.path is None:
        assert spec.pairs is not None
        drawn = [
            generate_pairs(spec.pairs, seed, "train", flaw=spec.flaw),
            generate_pairs(spec.test_pairs, SUITE_SEED, "test", flaw=spec.flaw),
        ]
        train, test = ([PairRow(*pair, f"pair #{i}") for i, pair in enumerate(pairs)] for pairs in drawn)
        return train, test
    found = []
    for row in read_rows(Path(spec.path)):
        pair = row.fault if row.values is None else pair_of(row.values, row.where)
        if isinstance(pair, str):
            aside.append((row.where, pair))
        else:
            found.append(pair)
    return held_out_by_prompt(found, spec)


def held_out_by_prompt(pairs: Sequence[PairRow], spec: PreferenceSpec) -> tuple[list[PairRow], list[PairRow]]:
    """Training and held-out pairs: about `test_pairs`, at most a fifth, and no prompt on both sides."""
    prompts = [stable_hash(list(pair.prompt)) for pair in pairs]
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise DataError(f"{len(pairs)} pairs are too few to train on and to hold some prompts out", where=spec.path)
    share = min(0.2, spec.test_pairs / len(pairs))
    held = set(distinct[: max(1, round(share * len(distinct)))])
    train = [pair for pair, prompt in zip(pairs, prompts) if prompt not in held]
    return train, [pair for pair, prompt in zip(pairs, prompts) if prompt in held]


def pair_of(row: dict[str, Any], where: str) -> PairRow | str:
    """A row as a pair, or what is wrong with it. `messages` or `prompt`, `chosen`, `rejected`: text or messages."""
    prompt = row.get("messages") or row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    replies, prompts = [], []
    for key in ("chosen", "rejected"):
        reply = row.get(key)
        if isinstance(reply, str):
            reply = [{"role": "assistant", "content": reply}]
        if not isinstance(reply, list) or not reply or not isinstance(reply[-1], dict):
            return f"no text or messages in the column `{key}`"
        if reply[-1].get("role") != "assistant":
            return f"`{key}` does not end with an assistant message"
        prompts.append(reply[:-1])
        replies.append(reply[-1])
    if not prompt:
        if prompts[0] != prompts[1]:
            return "`chosen` and `rejected` answer different conversations"
        prompt = prompts[0]
    if not isinstance(prompt, list) or not prompt:
        return "no prompt: give `messages`, `prompt`, or whole conversations in `chosen` and `rejected`"
    fault = odd_columns({**row, "messages": prompt})
    thinking = bool((row.get("chat_template_kwargs") or {}).get("enable_thinking", False)) if not fault else False
    return fault or PairRow(prompt, replies[0], replies[1], where, thinking, row.get("tools") or None)


def encode_pairs(
    chat: Chat, pairs: Sequence[PairRow], max_length: int, aside: list[tuple[str, str]]
) -> list[EncodedPair]:
    """Both answers of each pair as examples, only the answer trained; a pair that does not fit is set aside."""
    sides = []
    refused: dict[int, tuple[str, str]] = {}
    for reply in ("chosen", "rejected"):
        rows = [
            Conversation([*pair.prompt, getattr(pair, reply)], pair.enable_thinking, pair.tools, pair.where)
            for pair in pairs
        ]
        encoded = encode_chats(chat.tokenizer, rows, max_length=max_length, train_on="last_turn")
        for item in encoded.set_aside:
            refused.setdefault(item.index, (pairs[item.index].where, f"{reply}: {item.reason}"))
        sides.append(dict(zip(encoded.kept, encoded.examples)))
    aside += refused.values()
    chosen, rejected = sides
    both = [(chosen[i], rejected[i]) for i in range(len(pairs)) if i in chosen and i in rejected]
    if not both:
        where, reason = aside[0]
        raise DataError(f"no preference pair is left; the first was set aside: {reason}", where=where)
    return both


@torch.no_grad()
def _scores(chat: Chat, pairs: Sequence[EncodedPair], spec: PreferenceSpec) -> list[list[float]]:
    """[chosen, rejected] summed log-probability of every pair under the model as it is now."""
    scores: list[list[float]] = []
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        rows = [[doc] for pair in part for doc in pair]
        batch = collate(rows, max(len(row[0]) for row in rows), chat.pad_id).to(chat.device)
        with autocast(chat.device, spec.precision):  # as in training, or the margins would not start at 0
            values = sequence_logprobs(chat.model, batch).tolist()
        scores += [values[i : i + 2] for i in range(0, len(values), 2)]
    return scores


def _with_reference(pairs: Sequence[EncodedPair], scores: Sequence[Sequence[float]]) -> list[EncodedPair]:
    """The pairs with the reference's log-probability on each answer."""

    def known(doc: Example, value: float) -> Example:
        return replace(doc, fields={**doc.fields, "reference_logprob": value})

    return [(known(pair[0], score[0]), known(pair[1], score[1])) for pair, score in zip(pairs, scores)]


def _measure(
    chat: Chat, spec: PreferenceSpec, pairs: Sequence[EncodedPair], reference: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Sampled answers by the pairs' own criterion, and the ranking of held-out pairs."""
    scores = _scores(chat, pairs, spec)
    result: dict[str, Any] = {
        "ranked": sum(c > r for c, r in scores) / len(scores),
        "margin": sum((c - rc) - (r - rr) for (c, r), (rc, rr) in zip(scores, reference)) / len(scores),
        "pairs": len(scores),
    }
    if spec.path is None and spec.flaw_cases:
        result |= sampled_answers(chat, spec)
    return result


def sampled_answers(chat: Chat, spec: PreferenceSpec) -> dict[str, list[float]]:
    """One sampled answer to each held-out question: is it without the flaw, does it say the right thing (0 or 1)?

    Temperature 1, because greedy decoding hides a flaw that sits in a third of the answers. Question i draws the same
    random numbers before and after, so the two can be compared one by one.
    """
    cases = [
        case
        for skill in ("talk", "identity")
        for case in generate_cases(skill, (spec.flaw_cases + 1) // 2, SUITE_SEED, "test", thinking=0.0)
    ]
    prompts = encode_prompts(chat.tokenizer, [Conversation(case.messages) for case in cases])
    params = SamplingParams(max_new_tokens=64, temperature=1.0)
    completions = engine_of(chat).generate(prompts, params, seed=SUITE_SEED)
    texts = [chat.tokenizer.decode(completion.tokens, skip_special_tokens=True) for completion in completions]
    flawless = [grade(case, text).score or 0.0 for case, text in zip(flaw_cases(cases, spec.flaw), texts)]
    return {"flawless": flawless, "right": [grade(case, text).score or 0.0 for case, text in zip(cases, texts)]}


def wins(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Per question: 1 where the later answer is the better one, 0 where it is the worse, 0.5 for a tie."""
    return [0.5 + 0.5 * ((new > old) - (new < old)) for old, new in zip(before, after)]


def _figures(before: dict[str, Any], after: dict[str, Any]) -> list[Figure]:
    figures = []
    if "flawless" in after:
        n = len(after["flawless"])
        won = wins(before["flawless"], after["flawless"])
        figures.append(
            Figure(name="win rate over its input", before=0.5, after=sum(won) / n, unit="%", n=n,
                   stderr_after=standard_error(won),
                   help="sampled answers to held-out questions; the flaw loses, ties count half")
        )  # fmt: skip
        for key, name, text in (
            ("flawless", "answers without the flaw", "sampled at temperature 1 on held-out questions"),
            ("right", "right answers, sampled", "the same questions, graded for what is said"),
        ):
            old, new = before[key], after[key]
            figures.append(
                Figure(name=name, before=sum(old) / n, after=sum(new) / n, unit="%", stderr_before=standard_error(old),
                       stderr_after=standard_error(new), n=n, help=text)
            )  # fmt: skip
    n = after["pairs"]
    figures += [
        Figure(name="held-out pairs ranked right", before=before["ranked"], after=after["ranked"], unit="%", n=n,
               headline="flawless" not in after,
               help="log-probability of the chosen answer above that of the rejected one"),
        Figure(name="reward margin", before=before["margin"], after=after["margin"], unit="nats", n=n, headline=False,
               help="held-out pairs, against the reference; no proof of a better model"),
    ]  # fmt: skip
    return figures + suite_figures(before["suite"], after["suite"], headline=("skills, mean",))
