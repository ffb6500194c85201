"""The data card as one self-contained HTML page: pictures of what curation took, figures of what is left, samples.

Built from the report's pieces: no script, nothing is loaded from elsewhere, text of documents is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.corpus import card_pictures as pictures
from luopan.corpus.card_made import made_table, note_of, whole_configuration
from luopan.corpus.stats import SAMPLE_CHARACTERS
from luopan.report.data import Picture, Table
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import number, quantity, size
from luopan.report.sections import COMPASS, notes, section
from luopan.report.shell import html_page
from luopan.report.stage_section import picture
from luopan.report.tables import table

# On a narrow screen the counts beside long names stay in sight.
STYLE = """
.steps tbody th { white-space: nowrap; }
.steps td:last-child { min-width: 12.5rem; }
@media (max-width: 36rem) { .rules tbody th { overflow-wrap: anywhere; min-width: 9.5rem; } }
"""
RULES_WITH_SAMPLES = 40  # a page of every rule's samples would be long; the most frequent rules come first


def card_html(card: Mapping[str, Any], funnel: Mapping[str, Any], title: str = "Corpus") -> str:
    """The page of a corpus, from its `card.json` and `funnel.json`. Pure: reads no file of the corpus, no clock."""
    parts = [part for part in _parts(card, funnel) if part[2] is not None]
    contents = tag("ol", *(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in parts))
    page = tag(
        "div",
        tag("nav", tag("p", tag("a", title, href="#top")), contents, aria_label="Contents"),
        tag("main", _header(card, funnel, title), *(part for _, _, part in parts), _footer()),
    )
    body = tag("body", tag("a", "Skip to content", href="#top", class_="skip"), page)
    return html_page(f"{title} · Luopan data card", body, STYLE)


def _parts(card: Mapping[str, Any], funnel: Mapping[str, Any]) -> list[tuple[str, str, Markup | None]]:
    """(anchor, title, markup or None) in the order of the page."""
    several = len(card["sources"]) > 1
    drawn = [picture(item) for item in pictures.funnels(funnel)]
    took = drawn if len(drawn) == 1 else [tag("div", *drawn, class_="grid")]
    took.append(tag("div", table(pictures.steps_table(funnel, list(card["sources"]))), class_="steps"))
    took += [tag("div", table(pictures.rules_table(funnel)), class_="rules")] if funnel["rejected"] else []
    text = _shown([pictures.lengths(card), pictures.language_shares(card), pictures.quality(card)])
    tables = _shown([pictures.counts_table(funnel, card), pictures.pii_table(card)])
    repeated, hosts = _shown([pictures.span_table(card)]), _shown([pictures.domain_table(card)])
    sources = [picture(pictures.source_shares(card))] if several else []
    sources.append(table(pictures.source_table(card)))
    return [
        ("funnel", "From sources to corpus", section("funnel", "From sources to corpus", *took, *tables)),
        ("sources", "Sources", section("sources", "Sources", *sources)),
        ("made", "How it was made", _made(card, funnel)),
        ("text", "The text", section("text", "The text", tag("div", *text, class_="grid")) if text else None),
        ("hosts", "Web hosts", section("hosts", "Web hosts", *hosts) if hosts else None),
        ("spans", "Repeated spans", section("spans", "Repeated spans", *repeated) if repeated else None),
        ("kept", "What was kept", _kept(card)),
        ("rejected", "What was rejected", _rejected(card, funnel)),
    ]


def _made(card: Mapping[str, Any], funnel: Mapping[str, Any]) -> Markup | None:
    """Version, preset and settings of what the corpus was made by; cards of older versions do not say it."""
    shown = made_table(card, funnel)
    return section("made", "How it was made", table(shown), whole_configuration(card)) if shown is not None else None


def _shown(items: Sequence[Picture | Table | None]) -> list[Markup]:
    return [table(item) if isinstance(item, Table) else picture(item) for item in items if item is not None]


def _header(card: Mapping[str, Any], funnel: Mapping[str, Any], title: str) -> Markup:
    counted = card.get("tokens_by", {}).get("counted", True)
    documents, text = card["documents"], card["bytes"]
    found = next((step for step in funnel["steps"] if step["step"] == "found"), None)
    kept = (text["train"] + text["held_out"]) / found["bytes"] if found and found["bytes"] else None
    tiles = [
        ("Documents", f"{documents['train']:,}"),
        ("Text", size(text["train"])),
        ("Words", quantity(card["words"]["train"]) if "words" in card else ""),
        ("Tokens" if counted else "Tokens (estimate)", quantity(card["tokens"]["train"]) if "tokens" in card else ""),
        ("Held out", f"{documents['held_out']:,}"),
        ("Of the text found", number(kept, "%") if kept is not None else ""),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in tiles if value]
    kicker = tag("div", tag("p", "Luopan data card", class_="kicker"), tag("h1", title))
    lead = f"{len(card['sources'])} source{'s' if len(card['sources']) != 1 else ''}."
    if not counted:
        lead += f" Tokens are an estimate of one for {card['tokens_by']['bytes_per_token']:g} bytes."
    return tag(
        "header",
        tag("div", COMPASS, kicker, class_="brand"),
        tag("p", lead, class_="lead"),
        tag("dl", *shown, class_="tiles"),
        notes([note_of(text) for text in funnel["notes"]]),
        id="top",
    )


def _kept(card: Mapping[str, Any]) -> Markup | None:
    """Samples of every source, chosen by hash of the id."""
    groups = [
        _group(name, [_sample(each["text"], each["id"], []) for each in source["samples"]])
        for name, source in card["sources"].items()
        if source["samples"]
    ]
    lead = "Training documents chosen by hash of their id, not by hand; their beginnings."
    return section("kept", "What was kept", tag("p", lead, class_="lead"), *groups) if groups else None


def _rejected(card: Mapping[str, Any], funnel: Mapping[str, Any]) -> Markup | None:
    """Samples of what each rule took, the most frequent rules first."""
    samples: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in card.get("rejected_samples", ()):
        samples.setdefault((each["step"], each["rule"]), []).append(each)
    ordered = sorted(funnel["rejected"], key=lambda row: (-row["documents"], row["step"], row["rule"]))
    groups = []
    for row in ordered[:RULES_WITH_SAMPLES]:
        own = samples.get((row["step"], row["rule"]), [])
        name = f"{row['step']}/{row['rule']}: {row['documents']:,}"
        if own:
            groups.append(_group(name, [_sample(each["text"], each["id"], _reasons(each, card)) for each in own]))
        elif row["examples"]:
            listed = tag("ul", *(tag("li", example, dir="auto") for example in row["examples"]))
            groups.append(_group(name, [tag("div", listed, class_="card sample")]))
    lead = "Also chosen by hash. Does a rule take what you want? Try another threshold on a sample: "
    words = tag("p", lead, tag("code", f"luopan corpus try SOURCE{_preset(card)} RULE=VALUE"), class_="lead")
    return section("rejected", "What was rejected", words, *groups) if groups else None


def _preset(card: Mapping[str, Any]) -> str:
    """The option that names the corpus's preset; where the card does not say which, the option's form."""
    made = card.get("made_by")
    name = made["settings"].get("preset") if made else "NAME"
    return f" --preset {name}" if name else ""


def _reasons(sample: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """Chips: the figure against its limit, words, the source where there are several."""
    chips = []
    if sample.get("value") is not None:
        limit = f" (limit {sample['threshold']:.4g})" if sample.get("threshold") is not None else ""
        chips.append(f"{sample['value']:.4g}{limit}")
    if sample.get("detail"):
        chips.append(sample["detail"])
    return [*chips, sample["source"]] if len(card["sources"]) > 1 else chips


def _group(name: str, cards: Sequence[Markup]) -> Markup:
    return tag("div", tag("h3", name), *cards, class_="samples")


def _sample(text: str | None, id: str, chips: Sequence[str]) -> Markup:
    head = tag("p", tag("strong", id), *(tag("span", chip, class_="chip") for chip in chips), class_="sample-head")
    more = "…" if text and len(text) >= SAMPLE_CHARACTERS else ""
    said = (
        tag("div", text, more, class_="said", dir="auto")
        if text
        else tag("p", "(its text is not kept)", class_="muted")
    )
    return tag("article", head, said, class_="card sample")


def _footer() -> Markup:
    words = "Written by Luopan. This page is one file: no scripts, nothing loaded from elsewhere."
    return join([tag("footer", words)])
