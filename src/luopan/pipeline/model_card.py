"""The model card of an export: `README.md` with the head that the Hub reads, from `card_facts.py` and the user's words.

Where nothing is known the card says "not recorded", and nothing is added to what the run's files say. Standard errors
stand beside the figures where they were measured; a card never says "not bad".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from luopan.artifacts import atomic_write_text
from luopan.errors import ModelError
from luopan.pipeline.card_facts import FACTS, CardFacts, CardOptions, collect_facts
from luopan.pipeline.card_licences import HUB_LICENCES
from luopan.pipeline.card_use import Use, placed

NOT_RECORDED = "not recorded"
CURVE_FILE = "loss.png"
TAGS = {"sft", "preference", "grpo", "ppo", "online_dpo", "rejection", "distill", "merge", "midtrain"}


def write_card(source: Path, folder: Path, options: CardOptions, use: Use, *, name: str, kind: str) -> CardFacts:
    """Write `README.md`, `luopan_card.json` and, where losses were logged, a picture of them, into `folder`.

    `source`: the model that is exported; `kind`: hf, gguf or adapter. Raises ModelError for a licence or a language
    that the Hub would refuse.
    """
    facts = collect_facts(source)
    head = header(facts, options, use, kind)
    picture = draw_curves(facts.curves, folder / CURVE_FILE)
    body = card_text(facts, options, use, name, head, picture)
    text = f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{body}"
    atomic_write_text(folder / "README.md", text)
    atomic_write_text(folder / FACTS, facts.as_json())
    return facts


def header(facts: CardFacts, options: CardOptions, use: Use, kind: str) -> dict[str, Any]:
    """The card's head: keys that the Hub knows, only those that something is known for."""
    languages = list(options.languages) or facts.header.get("language") or facts.languages
    languages = [languages] if isinstance(languages, str) else list(languages or ())
    for language in languages:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", str(language)):
            raise ModelError(f"{language!r} is no language code", hint="Such as en, zh or pt-BR (ISO 639).")
    base = options.base_model or facts.header.get("base_model") or _imported(facts)
    kinds = {stage["kind"] for stage in facts.stages}
    datasets = [one["name"] for stage in facts.stages for one in stage["data"] if one["kind"] == "dataset"]
    tags = ["luopan", *sorted(kinds & TAGS)]
    if not use.template or not use.template[0].startswith("There is no"):
        tags.append("conversational")
    head = {
        **_licence(options.license or facts.header.get("license"), facts.header),
        "language": languages,
        "library_name": "peft" if kind == "adapter" else use.library,
        "pipeline_tag": "text-generation",
        "base_model": base,
        "datasets": [name for name in dict.fromkeys(datasets) if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))],
        "tags": [*dict.fromkeys([*tags, *_texts(facts.header.get("tags"))])],
    }
    return {key: value for key, value in head.items() if value}


def _licence(licence: Any, kept: Mapping[str, Any]) -> dict[str, str]:
    """A licence of the Hub's list, or `other` with its name."""
    if not licence:
        return {}
    text = str(licence)
    if text == "other":
        return {"license": "other", "license_name": str(kept.get("license_name", "other"))}
    if text.lower() in HUB_LICENCES:
        return {"license": text.lower()}
    if not re.fullmatch(r"[A-Za-z0-9][\w. +-]*", text):
        raise ModelError(f"{text!r} is no name of a licence", hint="Such as apache-2.0, mit or cc-by-4.0.")
    return {"license": "other", "license_name": re.sub(r"[^\w.-]+", "-", text).lower()}


def _imported(facts: CardFacts) -> str | None:
    """The hub model that training began from, where the first stage of the lineage is one."""
    names = [stage["from"] for stage in facts.stages if stage["kind"] == "import" and stage["from"]]
    return names[0] if names and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", names[0]) else None


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def card_text(
    facts: CardFacts, options: CardOptions, use: Use, name: str, head: Mapping[str, Any], picture: bool
) -> str:
    """Everything below the head."""
    description = options.description or facts.description
    licence = head.get("license_name") or head.get("license")
    parts = [
        f"# {name}",
        description or f"A language model. What it is for: {NOT_RECORDED}.",
        _facts_line(facts, head, licence),
        "## How to use it",
        *(_use(title, language, code, remark, name) for title, language, code, remark in use.sections),
        *(["What differs there:\n\n" + _bullets(use.notes)] if use.notes else []),
        "## Chat template",
        _bullets(use.template),
        "## Data",
        _data(facts),
        "## Recipe",
        _recipe(facts),
        *([f"![training loss of each stage]({CURVE_FILE})"] if picture else []),
        "## Measurements",
        _measurements(facts),
        "## Limits, and what was not measured",
        _limits(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _facts_line(facts: CardFacts, head: Mapping[str, Any], licence: Any) -> str:
    sizes = [stage["parameters"] for stage in facts.stages if stage["parameters"]]
    rows = [
        ("parameters", f"{sizes[-1]:,}" if sizes else NOT_RECORDED),
        ("licence", licence or NOT_RECORDED),
        ("languages", ", ".join(head.get("language", ())) or NOT_RECORDED),
        (
            "trained from",
            head.get("base_model") or ("nothing: pretrained here" if _pretrained(facts) else NOT_RECORDED),
        ),
        ("made by", f"luopan {facts.versions.get('luopan', '')}".strip()),
    ]
    return table(["", ""], rows)


def _pretrained(facts: CardFacts) -> bool:
    return any(stage["kind"] == "pretrain" for stage in facts.stages)


def _use(title: str, language: str, code: str, remark: str, name: str) -> str:
    shown = placed(code, language, name).rstrip("\n")
    return f"### {title}\n\n```{language}\n{shown}\n```" + (f"\n\n{remark}" if remark else "")


def _data(facts: CardFacts) -> str:
    parts = []
    if facts.sources:
        counted = all(source["tokens_counted"] for source in facts.sources)
        rows = [
            (
                source["name"],
                " ".join(str(source[key]) for key in ("origin", "version") if source[key]) or NOT_RECORDED,
                source["licence"] or NOT_RECORDED,
                *(number(source[key]) for key in ("documents", "bytes", "tokens")),
            )
            for source in facts.sources
        ]
        columns = ["source", "origin", "licence", "documents", "bytes", "tokens" if counted else "tokens, estimated"]
        parts.append("Text, the training part:\n\n" + table(columns, rows))
        parts.append(_bullets([f"Cleaning: {line}" for line in facts.cleaning] or [f"Cleaning: {NOT_RECORDED}"]))
    for stage in facts.stages:
        if stage["data"]:
            rows = [
                (one["name"] or NOT_RECORDED, one["kind"] or NOT_RECORDED, _rest(one), one.get("licence") or _made(one))
                for one in stage["data"]
            ]
            parts.append(
                f"Examples of the stage {stage['name']}:\n\n" + table(["source", "", "how much", "licence"], rows)
            )
    return "\n\n".join(parts) or f"What it was trained on: {NOT_RECORDED}."


def _made(source: Mapping[str, Any]) -> str:
    return "made by luopan's programs" if source["kind"] == "skill" else NOT_RECORDED


def _rest(source: Mapping[str, Any]) -> str:
    known = {key: value for key, value in source.items() if key not in ("name", "kind", "licence")}
    return ", ".join(f"{key} {value}" for key, value in known.items()) or NOT_RECORDED


def _recipe(facts: CardFacts) -> str:
    if not facts.stages:
        return f"How it was trained: {NOT_RECORDED}."
    lines = [f"Recipe `{facts.recipe}`" + (f", seed {facts.seed}" if facts.seed is not None else "") + "."
             if facts.recipe else f"Recipe: {NOT_RECORDED}."]  # fmt: skip
    rows = []
    for stage in facts.stages:
        settings = ", ".join(f"{key} {_short(value)}" for key, value in stage["settings"].items())
        state = "" if stage["state"] == "as recorded" else f" ({stage['state']})"
        spent = f"{stage['seconds']:,.0f} s" if stage["seconds"] else NOT_RECORDED
        rows.append((f"{stage['name']}{state}", stage["kind"], settings or "–", number(stage["tokens"], "–"), spent))
    lines.append(table(["stage", "kind", "settings", "tokens seen", "time"], rows))
    if facts.versions:
        lines.append("Versions: " + ", ".join(f"{name} {value}" for name, value in facts.versions.items()) + ".")
    lines.append("All settings, checksums and versions are in `luopan_lineage.json`.")
    return "\n\n".join(lines)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace('"', "")


def _measurements(facts: CardFacts) -> str:
    rows = [
        (
            figure["name"],
            shown(figure["before"], figure["unit"]),
            shown(figure["after"], figure["unit"], figure["stderr_after"]),
            number(figure["n"], "–"),
            figure["help"] or "",
        )
        for figure in facts.figures
        if figure["after"] is not None
    ]
    if not rows:
        return f"Measurements of this model: {NOT_RECORDED}."
    last = facts.stages[-1]["name"] if facts.stages else "training"
    words = (
        f"By the stage `{last}` as it ended, on questions and text held out of training; ± is one standard error over "
        "the questions, where it was measured. Of the weights as trained: other number formats were not measured."
    )
    return f"{words}\n\n" + table(["", "before the stage", "this model", "cases", "how"], rows)


def _limits(facts: CardFacts) -> str:
    lines = list(facts.limits) or [f"What it is known not to do: {NOT_RECORDED}."]
    measured = {figure["name"] for figure in facts.figures}
    if not any("safety" in name or "refus" in name for name in measured):
        lines.append("Safety, bias and harmful answers were not measured.")
    lines.append("Public benchmarks were not run unless they stand among the measurements.")
    return _bullets(lines)


def shown(value: Any, unit: str, error: Any = None) -> str:
    """A figure with its standard error and unit; shares as percentages."""
    if not isinstance(value, int | float):
        return "–"
    scale, digits, mark = (100.0, 1, " %") if unit == "%" else (1.0, 3, f" {unit}" if unit else "")
    around = f" ± {error * scale:.{digits}f}" if isinstance(error, int | float) else ""
    return f"{value * scale:.{digits}f}{around}{mark}"


def number(value: Any, none: str = NOT_RECORDED) -> str:
    """A count with thousands separated."""
    return f"{value:,}" if isinstance(value, int) else (f"{value:,.0f}" if isinstance(value, float) else none)


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; bars and line breaks inside cells are made harmless."""

    def cells(values: Iterable[Any]) -> str:
        return "| " + " | ".join(_tags(str(value)).replace("|", "\\|").replace("\n", " ") for value in values) + " |"

    names = list(columns)
    return "\n".join([cells(names), "|" + "---|" * len(names), *map(cells, rows)])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_tags(line)}" for line in lines)


def _tags(text: str) -> str:
    """`text` with what looks like a tag of HTML in back-ticks: a page would hide it."""
    return "".join(
        part if at % 2 else re.sub(r"<[^<>\s][^<>]*>", lambda found: f"`{found[0]}`", part)
        for at, part in enumerate(re.split(r"(`[^`]*`)", text))
    )


def draw_curves(curves: Mapping[str, list[list[float]]], file: Path) -> bool:
    """A picture of the training losses, one panel a stage; whether there was anything to draw."""
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(drawn), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (name, points) in zip(axes, drawn.items(), strict=True):
        axis.plot([point[0] for point in points], [point[1] for point in points], linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("training loss", fontsize=8)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True
