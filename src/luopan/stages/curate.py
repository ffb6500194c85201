"""Curate: sources in, a clean corpus with a held-out part out, and every rejected document kept with its reason.

Texts that skills make stand beside the user's documents as sources of their own; they are deduplicated and split like
the rest, but not filtered (a page of sums is no prose).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from luopan.corpus import Document, curate
from luopan.corpus.plan import state
from luopan.corpus.preflight import check_curation
from luopan.corpus.skills import documents, long_documents
from luopan.corpus.source_config import SourceConfig
from luopan.recipe.parts import SkillDocuments
from luopan.recipe.specs import CurateSpec
from luopan.report.data import Figure
from luopan.stages.base import Inputs, Workspace
from luopan.stages.curate_report import curate_report
from luopan.stages.handover import metrics_of, write_report

LONG = "long:"


class Curate:
    """See the module."""

    kind: ClassVar[str] = "curate"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = ("corpus",)

    @staticmethod
    def fingerprint(spec: CurateSpec) -> str:
        assert spec.source is not None  # the recipe fills it in
        return state(spec.source.all_sources(), spec)

    @staticmethod
    def check(spec: CurateSpec) -> None:
        for item in spec.skills:
            _texts(item.model_copy(update={"documents": 1}), 0)
        assert spec.source is not None  # the recipe fills it in
        check_curation(spec, [source.name for source in spec.source.all_sources()])

    @staticmethod
    def run(spec: CurateSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        assert spec.source is not None
        names = dict.fromkeys(item.source for item in spec.skills)
        streams = {name: skill_documents(spec, name, out.seed) for name in names}
        sources = [capped(source, spec.max_source_bytes) for source in spec.source.all_sources()]
        made = curate(sources, spec, out.path / "corpus", streams=streams, watcher=out.progress)
        figures = _figures(made.funnel, made.card)
        write_report(out.path, curate_report(out.name, made.funnel, made.card, figures))
        megabytes = made.read_bytes / 1e6
        return metrics_of(
            figures,
            sources={name: part["bytes"]["train"] for name, part in made.card["sources"].items()},
            rejected=sum(row["documents"] for row in made.funnel["rejected"]),
            megabytes_per_second=round(megabytes / made.seconds, 2) if made.seconds else None,
        )


def capped(source: SourceConfig, max_bytes: int | None) -> SourceConfig:
    """The source with the stage's cap, unless it has one of its own."""
    return source if source.max_bytes is not None else source.model_copy(update={"max_bytes": max_bytes})


def skill_documents(spec: CurateSpec, source: str, seed: int) -> Iterator[Document]:
    """The documents of one procedural source."""
    for number, item in enumerate(spec.skills):
        if item.source != source:
            continue
        for index, text in enumerate(_texts(item, seed + number)):
            yield Document(f"{source}/{item.skill}/{index:06d}", text, source, {"skill": item.skill})


def _texts(item: SkillDocuments, seed: int) -> list[str]:
    options: dict[str, Any] = dict(item.options)
    if item.skill.startswith(LONG):
        return long_documents(item.documents, seed, kind=item.skill.removeprefix(LONG), **options)  # type: ignore[arg-type]
    return documents(item.skill, item.documents, seed, **options)


def _figures(funnel: dict[str, Any], card: dict[str, Any]) -> list[Figure]:
    found = next(step for step in funnel["steps"] if step["step"] == "found")
    kept = {key: card[key]["train"] + card[key]["held_out"] for key in ("documents", "bytes")}
    return [
        Figure(name="documents", before=found["documents"], after=kept["documents"], higher_is_better=None,
               help="found in the sources, and kept (long ones are cut into several)"),
        Figure(name="bytes", before=found["bytes"], after=kept["bytes"], unit="bytes", higher_is_better=None),
        Figure(name="held-out documents", after=card["documents"]["held_out"], higher_is_better=None, headline=False),
    ]  # fmt: skip
