"""Merging as a stage: the weights of several models as one, measured beside the models it is made of."""

from __future__ import annotations

import shutil
from typing import Any, ClassVar

from luopan.artifacts import replace_folder
from luopan.model.merge import MergePlan
from luopan.model.merge_files import merge_folders
from luopan.recipe.merge_specs import MergeSpec
from luopan.report.data import Note, StageReport, Table
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD, Chat, open_model, start_device
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import check_suite, mean_accuracy, samples_of, suite_after, suite_figures, suite_of
from luopan.tokens.tokenizer import load_tokenizer


class Merge:
    """See the module."""

    kind: ClassVar[str] = "merge"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: MergeSpec) -> str:
        return ""

    @staticmethod
    def check(spec: MergeSpec) -> None:
        check_suite(spec.suite)

    @staticmethod
    def run(spec: MergeSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        sources = inputs["models"]
        base = inputs["base"][0] if "base" in inputs else None
        said: list[str] = []
        made = out.path / "merged"
        shutil.rmtree(made, ignore_errors=True)  # of a stage that was killed between the two
        out.progress.start(out.name, None)
        merge_folders(
            [source.model_path for source in sources],
            made,
            plan_of(spec),
            base.model_path if base else None,
            said.append,
            names=[source.manifest.name for source in (*sources, *([base] if base else []))],
            done=lambda tensors, of: out.progress.update(tensors),
        )
        out.progress.finish()
        replace_folder(made, out.path / "model")
        for text in said:
            out.progress.note(text)
        figures, tables, samples = [], [], []
        device = start_device()
        if spec.suite.tests:
            befores = [suite_of(source, open_model(source, device), spec.suite) for source in sources]
            chat = _open(out, device)
            after = suite_after(out.path, chat, spec.suite)
            best = max(befores, key=lambda result: mean_accuracy(result) or 0.0)
            figures = suite_figures(best, after, headline=("skills, mean",))
            tables = [_table([source.manifest.name for source in sources], befores, out.name, after)]
            samples = samples_of(after, out.name)
        weights = spec.weights or (1.0,) * len(sources)
        names = ", ".join(
            f"{source.manifest.name} ({weight:g})" for source, weight in zip(sources, weights, strict=True)
        )
        report = StageReport(
            kind="merge",
            name=out.name,
            summary=f"{spec.method} of {names}" + (f", changes from {base.manifest.name}." if base else "."),
            notes=[Note(text=text, level="warning") for text in said],
            figures=figures,
            tables=tables,
            samples=samples,
        )
        write_report(out.path, report)
        return metrics_of(figures, models=len(sources))


def plan_of(spec: MergeSpec) -> MergePlan:
    """The spec's arithmetic."""
    given = {key: getattr(spec, key) for key in ("t", "density", "scale") if getattr(spec, key) is not None}
    return MergePlan(spec.method, spec.weights or (), spec.normalize, **given)


def _open(out: Workspace, device: Any) -> Chat:
    from luopan.model import hf

    folder = out.path / "model"
    return Chat(hf.load(folder).to(device), load_tokenizer(folder), device, out.name)


def _table(names: list[str], befores: list[dict[str, Any]], merged: str, after: dict[str, Any]) -> Table:
    return Table(
        title="Held-out skills, merged and not",
        columns=["test", *names, merged],
        units=["", *["%"] * (len(names) + 1)],
        rows=[
            [test, *(result["tests"][test]["accuracy"] for result in befores), score["accuracy"]]
            for test, score in after["tests"].items()
        ],
    )
