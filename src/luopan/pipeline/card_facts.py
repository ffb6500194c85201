"""What a model card can say about a model, collected from its run: data, recipe, measurements, known limits.

From the manifests that the lineage names, the data cards, the stages' reports and the recipe's own words. A stage that
is gone, or was made again since, gives only what the lineage recorded. Nothing is guessed: what no file says is left
empty and the card writes "not recorded". The facts travel with an export as `luopan_card.json`, so that a model that
is exported again (to another format, on another machine) keeps them. Paths of this machine are shortened to names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from luopan.artifacts import read_manifest
from luopan.errors import ArtifactError, LuopanError
from luopan.pipeline.lineage import LineageStep, lineage
from luopan.report.data import series_from_metrics
from luopan.train.tracking import read_metrics

FACTS = "luopan_card.json"
# Settings of a stage that a reader asks for first, in this order; all of them are in luopan_lineage.json.
SETTINGS = (
    "sequence_length", "max_length", "max_steps", "num_train_epochs", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio",
    "weight_decay", "precision", "mixture", "extension", "rope_theta", "adapter", "loss_type", "beta", "nll_coef",
    "pairs", "num_generations", "prompts_per_step", "max_completion_length", "temperature", "method", "vocab_size",
    "whitespace", "split_digits", "digit_group", "seed",
)  # fmt: skip
CURVE_POINTS = 200


@dataclass(frozen=True)
class CardOptions:
    """What the user says about the model; the rest is found. `license`: the Hub's name for it, such as apache-2.0."""

    license: str | None = None
    languages: tuple[str, ...] = ()
    base_model: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """Plain data. `sources`, `stages`, `figures`: mappings with the keys that `model_card.py` prints.

    `header` is the YAML head of a card that the source had; `curves` maps stages to [step, loss] pairs.
    """

    recipe: str | None = None
    description: str | None = None
    seed: int | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)
    cleaning: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def as_json(self) -> str:
        """For `luopan_card.json`."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"


def collect_facts(source: Path) -> CardFacts:
    """The facts about the model, or adapter, in `source`; those that came with it if it was exported before."""
    kept = source / FACTS
    if kept.is_file():
        try:
            return CardFacts(**json.loads(kept.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ArtifactError(
                "cannot be read", where=kept, hint="Remove it: the card is then made without."
            ) from None
    header = card_header(source / "README.md")
    try:
        steps = lineage(source)
    except ArtifactError:  # a model from elsewhere
        return CardFacts(header=header)
    folders = {step.name: Path(step.path) for step in steps if step.state == "as recorded"}
    cards = [card for folder in folders.values() if (card := _json(folder / "corpus" / "card.json"))]
    recipe = _recipe(Path(steps[-1].path).parent) if steps[-1].state == "as recorded" else {}
    report = _report(folders.get(steps[-1].name))
    return CardFacts(
        recipe=recipe.get("name"),
        description=recipe.get("description"),
        seed=recipe.get("seed"),
        sources=[source for card in cards for source in _sources(card)],
        cleaning=[line for card in cards for line in _cleaning(card)],
        languages=sorted({name for card in cards for name in card.get("languages", {}) if name != "unknown"}),
        stages=[_stage(step, folders.get(step.name)) for step in steps],
        figures=[_figure(figure) for figure in report.get("figures", ())],
        limits=_limits(recipe),
        versions=dict(steps[-1].versions),
        header=header,
        curves={name: curve for name, folder in folders.items() if (curve := _curve(folder))},
    )


def card_header(file: Path) -> dict[str, Any]:
    """The YAML between the two lines of dashes that a model card begins with; empty where there is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def named(place: Any) -> str:
    """A place as it may stand in a public card: a hub id as it is, a path of this machine by its last part."""
    text = str(place)
    return PurePath(text).name if text.startswith(("/", "~", ".")) or "\\" in text or text.count("/") > 1 else text


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _recipe(run: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((run / "recipe.lock.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _report(folder: Path | None) -> dict[str, Any]:
    return {} if folder is None else _json(folder / "stage_report.json")


def _limits(recipe: Mapping[str, Any]) -> list[str]:
    """What the recipe's author wrote down as limits of its models."""
    stages = recipe.get("stages") or {}
    return [str(text) for stage in stages.values() if isinstance(stage, dict) for text in stage.get("limits") or ()]


def _sources(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    counted = bool((card.get("tokens_by") or {}).get("counted"))
    found = []
    for name, source in (card.get("sources") or {}).items():
        train = {key: (source.get(key) or {}).get("train") for key in ("documents", "bytes", "tokens")}
        origin = named(source["origin"]) if source.get("origin", "").startswith("/") else source.get("origin")
        found.append(
            {
                "name": name,
                "origin": origin or None,
                "version": source.get("version") or None,
                "licence": source.get("licence") or None,
                **train,
                "tokens_counted": counted,
            }
        )
    return found


def _cleaning(card: Mapping[str, Any]) -> list[str]:
    """How many documents were found and kept, and the settings that are not plain defaults."""
    lines = []
    found, kept = card.get("found"), card.get("documents")
    if found and kept:
        total = sum(kept.values())
        lines.append(
            f"{found['documents']:,} documents were found, {total:,} kept ({kept.get('held_out', 0):,} held out)"
        )
    made = card.get("made_by")
    if made:
        settings = ", ".join(
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in made["settings"].items()
        )
        lines.append(f"settings of the curation that are not the defaults: {settings or 'none'}")
    return lines


def _stage(step: LineageStep, folder: Path | None) -> dict[str, Any]:
    report, metrics = _report(folder), {}
    if folder is not None:
        try:
            metrics = read_manifest(folder).metrics
        except LuopanError:
            metrics = {}
    return {
        "name": step.name,
        "kind": step.kind,
        "state": step.state,
        "created": step.created or None,
        "seconds": step.seconds or None,
        "tokens": metrics.get("tokens"),
        "parameters": metrics.get("parameters") or report.get("parameters"),
        "summary": report.get("summary") or None,
        "settings": {key: _public(step.spec[key]) for key in SETTINGS if step.spec.get(key) is not None},
        "data": [_row_source(one) for one in step.spec.get("data") or () if isinstance(one, dict)],
        "from": named(step.spec["path"]) if step.kind == "import" and step.spec.get("path") else None,
        "headline": [_figure(one) for one in report.get("figures", ()) if one.get("headline")],
    }


def _public(value: Any) -> Any:
    """A setting without what is null in it."""
    if isinstance(value, dict):
        return {key: _public(one) for key, one in value.items() if one is not None}
    return value


def _row_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """One source of conversations, pairs or tasks: where from, and how much of it."""
    name = source.get("skill") or source.get("dataset") or source.get("path")
    kind = next((key for key in ("skill", "dataset", "path") if source.get(key)), None)
    keys = ("split", "config", "revision", "examples", "fraction", "thinking", "licence")
    return {
        "name": named(name) if name else None,
        "kind": kind,
        **{key: source[key] for key in keys if source.get(key)},
    }


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("name", "before", "after", "stderr_after", "n", "unit", "baseline", "baseline_name", "help")
    return {key: figure.get(key) for key in keys}


def _curve(folder: Path) -> list[list[float]]:
    """[step, training loss] of a stage, thinned to `CURVE_POINTS`; empty where none was logged."""
    losses = series_from_metrics(read_metrics(folder)).get("loss", [])
    every = max(1, -(-len(losses) // CURVE_POINTS))
    return [[step, round(loss, 5)] for step, loss in losses[::every] if loss is not None]
