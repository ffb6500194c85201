"""Evaluation: every model of the run on the same held-out questions and texts, and the same dialogues with each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from luopan.artifacts import Artifact, atomic_write_json, atomic_write_text
from luopan.recipe.specs import EvalSpec
from luopan.report.data import Answer, HeatCell, HeatColumn, HeatTable, Message, Sample, StageReport
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import open_model, start_device
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import answer_dialogues, check_suite, mean_accuracy, suite_figures, suite_of
from luopan.stages.text import mean_bits, text_bits


class Evaluate:
    """See the module."""

    kind: ClassVar[str] = "eval"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("scores.json",)

    @staticmethod
    def fingerprint(spec: EvalSpec) -> str:
        return ""

    @staticmethod
    def check(spec: EvalSpec) -> None:
        check_suite(spec.suite)

    @staticmethod
    def run(spec: EvalSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        corpus = inputs["corpus"][0] if "corpus" in inputs else None
        out.progress.start(out.name, len(inputs["models"]))
        scores: dict[str, Any] = {}
        for number, artifact in enumerate(inputs["models"], 1):
            name = artifact.manifest.name
            scores[name] = out.remember(f"scores-{name}", partial(evaluate, spec, artifact, corpus))
            out.progress.update(number, accuracy=mean_accuracy(scores[name]["suite"]) or 0.0)
        atomic_write_json(out.path / "scores.json", {n: _without_samples(score) for n, score in scores.items()})
        names = list(scores)
        samples = dialogue_samples(spec, scores)
        atomic_write_text(out.path / "samples.md", samples_markdown(samples))
        figures = suite_figures(
            scores[names[0]]["suite"], scores[names[-1]]["suite"], headline=("skills, mean", "stop rate")
        )
        report = StageReport(
            kind="eval",
            name=out.name,
            summary=f"{len(names)} models on the same held-out questions; before is {names[0]}, after {names[-1]}.",
            figures=figures,
            pictures=[heat_table(scores)] if spec.suite.tests else [],
            samples=samples,
        )
        write_report(out.path, report)
        return metrics_of(figures, models={name: headline_scores(score) for name, score in scores.items()})


def evaluate(spec: EvalSpec, artifact: Artifact, corpus: Artifact | None) -> dict[str, Any]:
    """Suite, text and dialogues of one model; plain data."""
    chat = open_model(artifact, start_device())
    length = chat.model.config.max_position_embeddings
    answers = answer_dialogues(chat, spec.dialogues, spec.suite.sampling)
    return {
        "suite": suite_of(artifact, chat, spec.suite),
        "bits": text_bits(chat, corpus, spec.eval_bytes, length) if corpus is not None else {},
        "dialogues": [[answer.model_dump() for answer in turns] for turns in answers],
    }


def headline_scores(score: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of one model."""
    total = score["suite"]["total"]
    return {
        "skills_mean": mean_accuracy(score["suite"]),
        "stop_rate": total.get("stop_rate"),
        "bits_per_byte": mean_bits(score["bits"]),
        "skills": {name: test["accuracy"] for name, test in score["suite"]["tests"].items()},
    }


def heat_table(scores: dict[str, Any]) -> HeatTable:
    """Models by tests, with bits per byte as the last column."""
    tests = list(next(iter(scores.values()))["suite"]["tests"])
    first = next(iter(scores.values()))["suite"]["tests"]
    columns = [HeatColumn(name=test, n=first[test]["n"]) for test in tests]
    columns += [HeatColumn(name="stop rate"), HeatColumn(name="bits per byte", unit="", higher_is_better=False)]
    cells = []
    for score in scores.values():
        row = [
            HeatCell(value=score["suite"]["tests"][test]["accuracy"], stderr=score["suite"]["tests"][test]["stderr"])
            for test in tests
        ]
        row += [HeatCell(value=score["suite"]["total"].get("stop_rate")), HeatCell(value=mean_bits(score["bits"]))]
        cells.append(row)
    return HeatTable(title="Every model on the same questions", rows=list(scores), columns=columns, cells=cells)


def dialogue_samples(spec: EvalSpec, scores: dict[str, Any]) -> list[Sample]:
    """One sample per user turn: the dialogue up to it, and what each model answered."""
    samples = []
    for number, dialogue in enumerate(spec.dialogues):
        shown: list[Message] = []
        place = 0
        for turn in dialogue:
            if turn.startswith("/system "):
                shown.append(Message(role="system", content=turn.removeprefix("/system ")))
                continue
            shown.append(Message(role="user", content=turn.removeprefix("/think ")))
            answers = {name: Answer.model_validate(score["dialogues"][number][place]) for name, score in scores.items()}
            samples.append(
                Sample(
                    messages=list(shown), answers=answers, group=f"dialogue {number + 1}",
                    thinking=turn.startswith("/think "),
                )
            )  # fmt: skip
            place += 1
    return samples


def samples_markdown(samples: Sequence[Sample]) -> str:
    """The dialogues as a text file: under each, the system prompts and the user's turn that it adds to the last one."""
    lines = ["# The same dialogues with every model", ""]
    group, told = None, 0
    for sample in samples:
        if sample.group != group:
            lines += [f"## {sample.group}", ""]
            group, told = sample.group, 0
        for message in sample.messages[told:]:
            lines += [f"**{message.role}**: {message.content}", ""]
        told = len(sample.messages)
        for name, answer in sample.answers.items():
            thinking = f"<think> {answer.thinking} </think> " if answer.thinking else ""
            lines.append(f"- {name}: {thinking}{answer.text}")
        lines.append("")
    return "\n".join(lines)


def _without_samples(score: dict[str, Any]) -> dict[str, Any]:
    return {"suite": {k: v for k, v in score["suite"].items() if k != "transcripts"}, "bits": score["bits"]}
