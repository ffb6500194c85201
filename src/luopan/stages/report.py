"""The report: what every stage left for it, put together as one self-contained page."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import psutil
import yaml

from luopan.artifacts import Artifact, atomic_write_text, versions
from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.specs import ReportSpec
from luopan.report.data import Mark, RunReport, Sample, StageReport, series_from_metrics
from luopan.report.page import render
from luopan.stages.base import Inputs, Workspace
from luopan.stages.handover import REPORT_FILE
from luopan.train.device import describe_device
from luopan.train.tracking import read_metrics

CLOSING_FILE = "closing.txt"
CLOSING_SAMPLES = 3


class Report:
    """See the module."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("report.json",)

    @staticmethod
    def fingerprint(spec: ReportSpec) -> str:
        return ""

    @staticmethod
    def run(spec: ReportSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        artifacts = inputs["stages"]
        out.progress.start(out.name, None)
        stages = [stage_part(artifact) for artifact in artifacts]
        run_folder = out.path.parent
        models = [a.manifest.name for a in artifacts if a.manifest.kind in MODEL_KINDS]
        lock = run_folder / "recipe.lock.yaml"
        recipe = lock.read_text(encoding="utf-8") if lock.is_file() else ""
        told = yaml.safe_load(recipe) if recipe else {}
        report = RunReport(
            name=spec.title or told.get("name", run_folder.name),
            description=told.get("description", ""),
            seed=told.get("seed"),
            created=datetime.now(UTC),
            hardware=hardware(),
            versions={name: str(value) for name, value in versions().items()},
            seconds=sum(artifact.manifest.seconds for artifact in artifacts),
            stages=stages,
            samples=[sample for part in stages if part.kind == "eval" for sample in part.samples],
            recipe=recipe,
            limits=list(spec.limits),
            chat_command=f"luopan chat {run_folder / models[-1]}" if models else "",
        )
        report = report.model_copy(update={"stages": [_without_dialogues(part) for part in stages]})
        atomic_write_text(out.path / "report.json", report.model_dump_json(indent=1) + "\n")
        atomic_write_text(out.path / "report.html", render(report))
        atomic_write_text(out.path / CLOSING_FILE, closing_words(report))
        gains = [figure for part in stages for figure in part.figures if figure.headline and figure.after is not None]
        return {
            "before": {"figures": 0},
            "after": {"figures": len(gains)},
            "flops": sum(part.flops or 0.0 for part in stages),
            "seconds_of_stages": round(report.seconds or 0.0, 1),
        }


def closing_words(report: RunReport) -> str:
    """What a run ends with on the terminal: sample dialogues with its last model, and the command to chat."""
    lines = []
    for sample in spread(report.samples, CLOSING_SAMPLES):
        name, answer = list(sample.answers.items())[-1]
        for message in sample.messages:
            lines.append(f"  {message.role}: {message.content}")
        thinking = f"<think> {' '.join(answer.thinking.split())} </think> " if answer.thinking else ""
        lines += [f"  {name}: {thinking}{answer.text}", ""]
    if report.chat_command:
        lines.append(f"talk to it: {report.chat_command}")
    return "\n".join(lines) + "\n"


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first turn of `count` different dialogues."""
    firsts: dict[str, Sample] = {}
    for sample in samples:
        firsts.setdefault(sample.group, sample)
    return list(firsts.values())[:count]


def stage_part(artifact: Artifact) -> StageReport:
    """What a stage left for the report, completed with its manifest and its curves."""
    manifest = artifact.manifest
    part = StageReport.model_validate_json(artifact.file(REPORT_FILE).read_text(encoding="utf-8"))
    series = {**part.series, **series_from_metrics(read_metrics(artifact.path))}
    marks = list(part.marks)
    resumed = manifest.metrics.get("resumed_from")
    if resumed is not None:
        marks.append(Mark(value=float(resumed), label="resumed"))
    return part.model_copy(
        update={
            "identity": manifest.identity[:12],
            "inputs": {role: record.path.rsplit("/", 1)[-1] for role, record in manifest.inputs.items()},
            "series": series,
            "marks": marks,
            "seconds": manifest.seconds,
            "peak_memory_bytes": manifest.metrics.get("peak_memory_bytes"),
        }
    )


def _without_dialogues(part: StageReport) -> StageReport:
    """The dialogues stand at the top of the page, so they are not shown again in the eval stage's part."""
    return part.model_copy(update={"samples": []}) if part.kind == "eval" else part


def hardware() -> dict[str, str]:
    """The machine, in words."""
    memory = psutil.virtual_memory().total / 2**30
    return {"device": describe_device(), "cores": str(psutil.cpu_count()), "memory": f"{memory:.0f} GiB",
            "system": platform.platform()}  # fmt: skip
