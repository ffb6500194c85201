"""The data card: what a corpus is made of, as plain data for a person, the report and programs.

`stats.py` counts while the corpus is written, this puts the counts in order; `card_page.py` draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from luopan.corpus.config import CurateConfig
from luopan.corpus.packaged import describe
from luopan.corpus.presets import PRESETS
from luopan.corpus.source_config import PackagedSource, SourceConfig
from luopan.corpus.stats import KEPT, QUALITY_BUCKETS, SHORTEST_BUCKET, Amount, CorpusStats, SourceStats, merge_amounts

TOP_SPANS = 20
TOP_DOMAINS = 50
# Where no tokenizer counts. Llama 3's, of 128k entries, has 3.94 characters a token in English (arXiv:2407.21783,
# section 3.2), and Chinese comes to about the same number of bytes; smaller vocabularies need more tokens.
BYTES_PER_TOKEN = 4.0


def origins(sources: Sequence[SourceConfig], streams: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Licence, origin and cap (if any) of each source, by name; `streams` are those that a program makes."""
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        if isinstance(source, PackagedSource):
            found[source.name] = describe(source.packaged)
        else:
            found[source.name] = {"licence": source.licence or "not stated", "origin": source.origin, "version": ""}
        if source.max_bytes is not None:
            found[source.name]["max_bytes"] = source.max_bytes
    for name in streams:
        found[name] = {"licence": "as the program that makes it", "origin": "generated", "version": ""}
    return found


def data_card(
    origins: Mapping[str, Mapping[str, Any]],
    stats: CorpusStats,
    funnel: Mapping[str, Any] | None = None,
    config: CurateConfig | None = None,
) -> dict[str, Any]:
    """The card. `origins`: licence and origin by source, every source of the corpus; `stats`: of the whole corpus;
    `funnel`: the JSON of its funnel, for what was found in the sources; `config`: what it was made by.

    Every figure is {train, held_out} or of both together. Sizes are bytes of UTF-8.
    """
    sources = {name: stats.sources.get(name, SourceStats()) for name in [*origins, *sorted(stats.sources)]}
    kept = {part: Amount() for part in KEPT}
    languages: dict[str, Amount] = {}
    for source in sources.values():
        for part in KEPT:
            kept[part].merge(source.kept[part])
        merge_amounts(languages, source.languages)
    documents = sum(amount.documents for amount in kept.values())
    found = next((step for step in (funnel or {"steps": []})["steps"] if step["step"] == "found"), None)
    return {
        "made_by": None if config is None else made_by(config),
        "found": {"documents": found["documents"], "bytes": found["bytes"]} if found else None,
        **figures(kept, stats),
        "tokens_by": {
            "counted": stats.tokenizer is not None,
            "tokenizer": stats.tokenizer,
            "bytes_per_token": None if stats.tokenizer is not None else BYTES_PER_TOKEN,
        },
        "mean_document_bytes": sum(amount.bytes for amount in kept.values()) / documents if documents else 0.0,
        "length_histogram": length_histogram(stats.lengths),
        "languages": by_size(languages),
        "domains": domains(stats),
        "top_spans": top_spans(stats),
        "pii": dict(sorted(stats.pii.items())),
        "quality_histogram": quality_histogram(stats.quality),
        "sources": {
            name: {
                **origins.get(name, {"licence": "not stated", "origin": "", "version": ""}),
                **figures(source.kept, stats),
                "languages": by_size(source.languages),
                "samples": [source.samples[at] for at in sorted(source.samples)],
            }
            for name, source in sources.items()
        },
        "rejected_samples": rejected_samples(stats),
    }


def made_by(config: CurateConfig) -> dict[str, Any]:
    """The version of luopan and the settings that are not the plain defaults (a preset's are among them), as a recipe
    would write them. No time and no place, so that the same corpus has the same card.
    """
    keys = {*CurateConfig.model_fields, "max_source_bytes"} - set(config.INCIDENTAL)
    full = config.model_dump(mode="json", include=keys)
    settings = beside(config.model_dump(mode="json", exclude_defaults=True, include=keys), full, {})
    for name, steps in settings.get("per_source", {}).items():
        settings["per_source"][name] = beside(steps, full["per_source"][name], settings)
    return {"luopan": version("luopan"), "settings": settings}


def beside(settings: Mapping[str, Any], full: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with those values of `full` that are plain defaults, but not what the preset (or, where none is named,
    the stage) says: without them the preset would count.
    """
    base = PRESETS[settings["preset"]] if settings.get("preset") else stage
    result = dict(settings)
    for key, value in base.items():
        if key not in full:
            continue
        here = result.get(key, full[key])
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            own = result.get(key, {})
            result[key] = {**own, **{name: full[key][name] for name in value if name not in own}}
        else:
            result[key] = here
    return result


def figures(kept: Mapping[str, Amount], stats: CorpusStats) -> dict[str, dict[str, int]]:
    """Documents, bytes, words and tokens, each for the training and the held-out part."""
    shown = {name: {part: getattr(kept[part], name) for part in KEPT} for name in ("documents", "bytes", "words")}
    counted = stats.tokenizer is not None
    tokens = {part: kept[part].tokens if counted else round(kept[part].bytes / BYTES_PER_TOKEN) for part in KEPT}
    return {**shown, "tokens": tokens}


def by_size(languages: Mapping[str, Amount]) -> dict[str, dict[str, int]]:
    """Documents and bytes by language, the largest first."""
    ordered = sorted(languages.items(), key=lambda item: (-item[1].bytes, item[0]))
    return {name: {"documents": amount.documents, "bytes": amount.bytes} for name, amount in ordered}


def length_histogram(lengths: Mapping[int, int]) -> list[dict[str, int]]:
    """Documents by size in bytes: buckets [from, to) that double from 64 on, up to the largest document."""
    if not lengths:
        return []
    rows = []
    for bucket in range(SHORTEST_BUCKET, max(lengths) + 1):
        low = 0 if bucket == SHORTEST_BUCKET else 1 << (bucket - 1)
        rows.append({"from": low, "to": 1 << bucket, "documents": lengths.get(bucket, 0)})
    return rows


def quality_histogram(quality: Mapping[int, int]) -> list[dict[str, float]]:
    """Documents by score: twenty buckets from 0 to 1; empty where nothing was scored."""
    if not quality:
        return []
    edges = [round(bucket / QUALITY_BUCKETS, 4) for bucket in range(QUALITY_BUCKETS + 1)]
    return [
        {"from": low, "to": high, "documents": quality.get(bucket, 0)}
        for bucket, (low, high) in enumerate(pairwise(edges))
    ]


def domains(stats: CorpusStats) -> dict[str, Any]:
    """The hosts with the most documents; `documents` have a URL, `hosts` are told apart."""
    ordered = sorted(stats.domains.items(), key=lambda item: (-item[1].documents, -item[1].bytes, item[0]))
    return {
        "documents": sum(amount.documents for amount in stats.domains.values()) + stats.other_domains.documents,
        "hosts": len(stats.domains),
        "complete": stats.other_domains.documents == 0,
        "top": [
            {"host": host, "documents": amount.documents, "bytes": amount.bytes}
            for host, amount in ordered[:TOP_DOMAINS]
        ],
    }


def top_spans(stats: CorpusStats) -> dict[str, Any]:
    """The spans that come again in the most documents."""
    spans = [
        {"text": text, "occurrences": occurrences, "documents": documents}
        for text, occurrences, documents in stats.spans.top(TOP_SPANS)
    ]
    return {"counted_one_in": stats.spans.one_in, "spans": spans}


def rejected_samples(stats: CorpusStats) -> list[dict[str, Any]]:
    """A few rejected documents of each rule, in the rules' alphabetical order."""
    return [
        {"step": step, "rule": rule, **samples[at]}
        for (step, rule), samples in sorted(stats.rejected.items())
        for at in sorted(samples)
    ]
