"""A reward model: which of two answers is the better one, as a number for each.

Judged on held-out pairs, no prompt of which was trained on: how many it ranks right, whether its confidence can be
believed (of the pairs it is 80% sure of, are 80% right?), and whether it goes by length, the commonest way for such a
model to be right for the wrong reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

import torch

from luopan.errors import DataError
from luopan.evals.skills import standard_error
from luopan.model.reward import add_score, family_of, reward_flops_per_token, reward_parameters, save_reward
from luopan.recipe.reward_specs import RewardSpec
from luopan.report.data import BarChart, Bars, Figure, Line, LineChart, Note, Picture
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    check_length,
    fit_metrics,
    open_model,
    start_device,
    train,
    training_report,
    with_steps,
)
from luopan.stages.conversations import by_reason
from luopan.stages.handover import metrics_of, sources_fingerprint, write_report
from luopan.stages.packed import PackedFeed
from luopan.stages.packing_report import steps_note
from luopan.stages.preference_data import Aside, Rows, encode_pairs, load_pairs, pair_rows
from luopan.tokens.batch import collate
from luopan.tokens.chat import stop_ids
from luopan.tokens.tokenizer import save_tokenizer
from luopan.train.config import TrainConfig
from luopan.train.device import autocast
from luopan.train.preflight import check_training
from luopan.train.reward_loss import document_scores, reward_loss

BINS = 10
LENGTH_RULES = 0.5  # a correlation of reward and length from which on the report warns


class Reward:
    """See the module."""

    kind: ClassVar[str] = "reward"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: RewardSpec) -> str:
        return sources_fingerprint(spec.data)

    @staticmethod
    def check(spec: RewardSpec) -> None:
        check_training(spec)

    @staticmethod
    def run(spec: RewardSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        chat = open_model(inputs["model"][0], start_device())
        check_length(spec.max_length, chat)
        family_of(chat.model.config)  # ModelError now, and not when the trained model is to be written
        add_score(chat.model, out.seed)
        aside: Aside = []
        notes: list[str] = []
        capacity = 2 * spec.max_length
        learned, test = load_pairs(spec.data, spec.pairs, spec.flaw, spec.test_pairs, out.seed, aside, notes)
        rows, test_rows = (
            pair_rows(encode_pairs(chat.tokenizer, some, spec.max_length, aside), capacity, share=spec.share_prompts)
            for some in (learned, test)
        )
        check_ends([*rows, *test_rows], chat)
        if aside:
            notes.append(f"{len(aside)} pairs are set aside, such as {aside[0][0]}: {aside[0][1]}")
        for note in notes:
            out.progress.note(note)
        config = with_steps(spec, len(rows))
        count = sum(len(row) for row in rows) // 2
        steps = steps_note(count, "pairs", len(rows), config)
        out.progress.note(steps.text)
        before = out.remember("before", lambda: ranked(chat, test_rows, config))
        feed = PackedFeed(rows, capacity, chat.pad_id, config, out.seed, count_pairs=True)
        loss = partial(reward_loss, center_rewards_coefficient=spec.center_rewards_coefficient)
        result = train(chat, feed, loss, config, out)
        save_reward(chat.model, out.path / "model", pad_token_id=chat.pad_id, eos_token_id=stop_ids(chat.tokenizer))
        save_tokenizer(chat.tokenizer, out.path / "model")
        after = ranked(chat, test_rows, config)
        figures = reward_figures(before, after)
        warning = after["length correlation"] is not None and abs(after["length correlation"]) > LENGTH_RULES
        report = training_report(
            "reward",
            out.name,
            chat,
            result,
            capacity,
            notes=[steps, *notes, *([Note(level="warning", text=GOES_BY_LENGTH)] if warning else [])],
            summary=f"{count} pairs; the reward is read at the last token of an answer.",
            figures=figures,
            pictures=pictures(after),
            set_aside=by_reason(aside, out.name, "pairs", count + after["pairs"] + len(aside)),
        )
        shape = chat.model.config
        cost = {
            "parameters": reward_parameters(shape),
            "flops": reward_flops_per_token(shape, capacity) * result.tokens,
        }
        write_report(out.path, report.model_copy(update=cost))
        return metrics_of(figures, **fit_metrics(result), pairs=count, set_aside=len(aside))


def check_ends(rows: Rows, chat: Chat) -> None:
    """DataError where texts end with the padding token: transformers would read their score one token earlier."""
    if any(int(doc.input_ids[-1]) == chat.pad_id for row in rows for doc in row):
        raise DataError(
            f"answers end with the token {chat.tokenizer.decode([chat.pad_id])!r}, which is the padding token too: "
            "transformers would take it for padding and read the score before it",
            where=chat.origin,
            hint="Give the tokenizer a padding token of its own: pad_token in an import stage.",
        )


GOES_BY_LENGTH = "The reward goes largely by the length of the answer: look at the pairs before training against it."


@torch.no_grad()
def ranked(chat: Chat, rows: Rows, config: TrainConfig) -> dict[str, Any]:
    """Rewards of held-out pairs: {chosen, rejected, lengths …}, all lists of numbers, and figures over them."""
    training = chat.model.training
    chat.model.eval()
    chosen, rejected, longer, all_rewards, all_lengths = [], [], [], [], []
    for row in rows:
        bare = [replace(doc, fields={}) for doc in row]
        batch = collate([bare], sum(map(len, bare)), chat.pad_id).to(chat.device)
        with autocast(chat.device, config.precision):
            values = document_scores(chat.model, batch).tolist()
        for (good, value), (bad, other) in zip(*[iter(zip(row, values, strict=True))] * 2, strict=True):
            chosen.append(value)
            rejected.append(other)
            longer.append(good.num_trained - bad.num_trained)
            all_rewards += [value, other]
            all_lengths += [good.num_trained, bad.num_trained]
    chat.model.train(training)
    right = [float(a > b) for a, b in zip(chosen, rejected)]
    return {
        "chosen": chosen,
        "rejected": rejected,
        "pairs": len(right),
        "accuracy": fmean(right),
        "stderr": standard_error(right),
        "margin": fmean(a - b for a, b in zip(chosen, rejected)),
        "calibration error": calibration(chosen, rejected)[1],
        "length correlation": correlation(all_rewards, all_lengths),
        "longer is better, in the data": fmean([float(gap > 0) for gap in longer if gap] or [0.5]),
    }


def calibration(chosen: Sequence[float], rejected: Sequence[float]) -> tuple[list[tuple[float, float, int]], float]:
    """[(confidence, share that is right, pairs)] by bins of confidence, and the expected calibration error.

    The confidence of a pair is s(|r+ - r-|), above one half; it is right where the better answer has the higher reward.
    """
    found = [(1 / (1 + math.exp(-min(abs(a - b), 50.0))), a > b) for a, b in zip(chosen, rejected, strict=True)]
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for confidence, right in found:
        bins[min(BINS - 1, int((confidence - 0.5) * 2 * BINS))].append((confidence, right))
    points = [(fmean(c for c, _ in one), fmean(float(r) for _, r in one), len(one)) for one in bins if one]
    error = sum(n * abs(confidence - right) for confidence, right, n in points) / max(1, len(found))
    return points, error


def correlation(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Pearson's, None where one of the two does not vary."""
    mean, other_mean = fmean(values), fmean(others)
    top = sum((a - mean) * (b - other_mean) for a, b in zip(values, others, strict=True))
    bottom = math.sqrt(sum((a - mean) ** 2 for a in values) * sum((b - other_mean) ** 2 for b in others))
    return top / bottom if bottom > 1e-12 else None


def reward_figures(before: dict[str, Any], after: dict[str, Any]) -> list[Figure]:
    """Accuracy first; then whether it can be believed."""
    n = after["pairs"]
    return [
        Figure(name="held-out pairs ranked right", before=before["accuracy"], after=after["accuracy"], unit="%", n=n,
               stderr_before=before["stderr"], stderr_after=after["stderr"], baseline=0.5, baseline_name="chance",
               help="the better answer has the higher reward"),
        Figure(name="calibration error", before=before["calibration error"], after=after["calibration error"], unit="%",
               higher_is_better=False, n=n, headline=False,
               help="how far confidence and share of right pairs are apart, over bins of confidence"),
        Figure(name="reward margin", before=before["margin"], after=after["margin"], n=n, headline=False),
        Figure(name="correlation of reward and length", before=before["length correlation"],
               after=after["length correlation"], higher_is_better=None, headline=False,
               help=f"in the data the longer answer is the better one in {after['longer is better, in the data']:.0%}"),
    ]  # fmt: skip


def pictures(after: dict[str, Any]) -> list[Picture]:
    """Confidence against truth, and how the rewards of both kinds of answers lie."""
    points, _ = calibration(after["chosen"], after["rejected"])
    low, high = min([*after["chosen"], *after["rejected"]]), max([*after["chosen"], *after["rejected"]])
    width = (high - low) / BINS or 1.0

    def counts(values: Sequence[float]) -> list[float]:
        found = [0.0] * BINS
        for value in values:
            found[min(BINS - 1, int((value - low) / width))] += 1
        return found

    return [
        LineChart(
            title="Can its confidence be believed?",
            lines=[
                Line(name="held-out pairs", points=[(c, right) for c, right, _ in points], style="points"),
                Line(name="as sure as it is right", points=[(0.5, 0.5), (1.0, 1.0)], style="dashed"),
            ],
            x_label="confidence",
            y_label="share ranked right",
            unit="%",
            caption="Below the line it is surer than it should be.",
        ),
        BarChart(
            title="Rewards of held-out answers",
            categories=[f"{low + width * place:.2f} to {low + width * (place + 1):.2f}" for place in range(BINS)],
            bars=[
                Bars(name="chosen", values=counts(after["chosen"])),
                Bars(name="rejected", values=counts(after["rejected"])),
            ],
            unit="answers",
        ),
    ]
