"""The user's own data: can it be reached, what is in its first rows, what would be trained, under which licence.

Looks at the first `LOOK` rows of each source. Nothing is downloaded: hub datasets are skipped without the network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from luopan.artifacts import stable_hash
from luopan.errors import LuopanError
from luopan.lab.checking.findings import Finding

LOOK = 400


def look(stages: Mapping[str, Any]) -> list[Finding]:
    """Every source of text and of conversations."""
    found: list[Finding] = []
    for name, spec in stages.items():
        if spec.kind == "curate":
            found += texts(name, spec)
        if spec.kind in ("sft", "preference", "reward"):
            for source in getattr(spec, "data", ()):
                found += rows(name, spec, source)
    return found


def texts(stage: str, spec: Any) -> Iterator[Finding]:
    """Sources of running text: there, readable, licensed; and evaluation sets that are taken out."""
    from luopan.corpus.read import files_of, read_files
    from luopan.corpus.source_config import CodeSource, FileSource, HubSource

    sources = spec.source.all_sources() if spec.source is not None else ()
    for source in sources:
        if isinstance(source, HubSource):
            yield Finding("text", "skipped", f"{source.origin}: on the hub, not looked at", stage=stage)
        if not isinstance(source, FileSource | CodeSource):
            continue
        try:
            count = len(files_of(source))
            sample = list(islice(read_files(source), LOOK))
        except (LuopanError, OSError) as error:
            yield Finding("text", "bad", f"{source.origin}: {_message(error)}", "mend the path", stage)
            continue
        bad = sum(not hasattr(one, "text") for one in sample)
        if not sample or bad == len(sample):
            yield Finding(
                "text", "bad", f"{source.origin}: no readable document in {count} files", "see text_column", stage
            )
        elif bad > 0.2 * len(sample):
            yield Finding(
                "text", "note", f"{source.origin}: {bad} of the first {len(sample)} are set aside", stage=stage
            )
        else:
            read = [str(one.text) for one in sample if hasattr(one, "text")]
            size = sum(map(len, read)) / max(1, len(read))
            yield Finding(
                "text", "ok", f"{source.origin}: {count} files, documents of {size:,.0f} characters", stage=stage
            )
        if source.licence is None:
            yield Finding("licence", "note", f"{source.origin}: none said", "licence: … goes into the data card", stage)
    if spec.decontaminate is None and any(isinstance(one, HubSource | FileSource) for one in sources):
        yield Finding("contamination", "note", "no evaluation set is taken out of the corpus",
                      "decontaminate: {sets: …} where the model will be tested on public sets", stage)  # fmt: skip


def rows(stage: str, spec: Any, source: Any) -> Iterator[Finding]:
    """A file of conversations or pairs: its form, faulty and repeated rows, answers that are empty."""
    from luopan.stages.rows import read_source
    from luopan.tokens.formats import recognise

    if getattr(source, "skill", None) is not None:
        return
    if source.dataset is not None and not Path(source.dataset).exists():
        yield Finding("rows", "skipped", f"{source.name}: on the hub, not looked at", stage=stage)
        return
    try:
        sample = list(islice(read_source(source), LOOK))
        sound = [row.values for row in sample if row.values is not None]
        form = recognise(sound, source.name) if sound else None
    except (LuopanError, OSError) as error:
        yield Finding("rows", "bad", f"{source.name}: {_message(error)}", stage=stage)
        return
    if form is None:
        yield Finding("rows", "bad", f"{source.name}: no row can be read", stage=stage)
        return
    faulty = [row for row in sample if row.values is None]
    if len(faulty) > 0.05 * len(sample):
        yield Finding("rows", "bad", f"{source.name}: {len(faulty)} of the first {len(sample)} rows cannot be read "
                      f"({faulty[0].where}: {faulty[0].fault})", stage=stage)  # fmt: skip
    copies = len(sound) - len({stable_hash(row) for row in sound})
    if copies > 0.05 * len(sound):
        yield Finding("repeated rows", "bad", f"{source.name}: {copies} of {len(sound)} rows are copies of others",
                      "remove them: they are learnt by heart", stage)  # fmt: skip
    yield from _pairs(stage, source, sound)
    yield Finding("rows", "ok", f"{source.name}: {form.name}, {len(sample)}{'+' if len(sample) == LOOK else ''} rows",
                  stage=stage)  # fmt: skip


def _pairs(stage: str, source: Any, sound: list[dict[str, Any]]) -> Iterator[Finding]:
    """Pairs whose answers are the same, or told apart by their length alone."""
    pairs = [(row["chosen"], row["rejected"]) for row in sound if {"chosen", "rejected"} <= set(row)]
    if not pairs:
        return
    same = sum(json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True) for a, b in pairs)
    if same:
        yield Finding("pairs", "bad", f"{source.name}: in {same} of {len(pairs)} pairs both answers are the same",
                      "remove them: they teach nothing", stage)  # fmt: skip
    longer = sum(len(json.dumps(a)) > len(json.dumps(b)) for a, b in pairs) / len(pairs)
    if len(pairs) >= 20 and not 0.1 <= longer <= 0.9:
        which = "longer" if longer > 0.5 else "shorter"
        yield Finding("pairs", "note", f"{source.name}: in {max(longer, 1 - longer):.0%} the {which} answer is chosen",
                      "length is what will be learnt first", stage)  # fmt: skip


def overlap(stages: Mapping[str, Any]) -> list[Finding]:
    """Files that fine-tuning reads more than once."""
    places: Counter[str] = Counter()
    for spec in stages.values():
        if spec.kind == "sft":
            places.update(str(source.path) for source in spec.data if source.path is not None)
    twice = [path for path, count in places.items() if count > 1]
    return [Finding("sources", "note", f"{path} is read {places[path]} times", "meant?") for path in twice]


def _message(error: Exception) -> str:
    return error.message if isinstance(error, LuopanError) else str(error)
