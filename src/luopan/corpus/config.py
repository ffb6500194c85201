"""What a user may say about a corpus: the steps from dirty text to documents to train on, in their order.

Imports neither torch nor pyarrow, so that a recipe loads, and a mistake in it is reported, at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.corpus.config_base import Bytes, Count, Frozen
from luopan.corpus.dedup_config import DecontaminateConfig, ExactConfig, MinHashConfig, SampleConfig, SpanConfig
from luopan.corpus.filter_config import (
    DUPLICATE_NGRAMS,
    TOP_NGRAM,
    C4Config,
    FineWebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    NormaliseConfig,
)
from luopan.corpus.presets import PRESETS, PresetName, merged
from luopan.corpus.safety_config import PiiConfig, QualityConfig, ToxicityConfig
from luopan.corpus.web_config import ExtractConfig, UrlConfig


class HeldOutConfig(Frozen):
    """Documents kept away from training, to measure on. Chosen by a hash of the id, so more data moves nothing over."""

    fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    min_documents: Count = Field(default=8, description="per source, but never more than half of it")
    max_bytes: Bytes | None = Field(default=1_000_000, description="per source; what is over it is trained on")

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> HeldOutConfig:
        if self.fraction == 0 and self.min_documents == 0 and "max_bytes" in self.model_fields_set:
            raise ValueError("max_bytes has no effect: fraction and min_documents are 0, so nothing is held out")
        return self


class LocalSteps(Frozen):
    """The steps that look at one document at a time, in their order; null leaves a step out."""

    preset: PresetName | None = Field(default=None, description="defaults for web, books, code, maths or zh text")
    extract: ExtractConfig | None = ExtractConfig()
    urls: UrlConfig | None = None
    normalise: NormaliseConfig | None = NormaliseConfig()
    max_document_bytes: Annotated[int, Field(ge=256)] | None = Field(
        default=65_536, description="longer documents are cut at a paragraph, line or word; null keeps them whole"
    )
    language: LanguageConfig | None = None
    gopher_repetition: GopherRepetitionConfig | None = GopherRepetitionConfig()
    gopher_quality: GopherQualityConfig | None = GopherQualityConfig()
    c4: C4Config | None = None
    fineweb: FineWebConfig | None = None
    toxicity: ToxicityConfig | None = None
    pii: PiiConfig | None = None
    quality: QualityConfig | None = None

    @model_validator(mode="after")
    def _preset_is_filled_in(self) -> LocalSteps:
        missing = set(PRESETS.get(self.preset or "", {})) - self.model_fields_set
        if missing & set(type(self).model_fields):
            raise ValueError("a preset is filled in by CurateConfig.build(...), not by the constructor")
        return self

    def files(self) -> list[str]:
        """Files of the user's that the steps read beside the sources: lists, classifiers."""
        found: list[str] = []
        if self.urls is not None:
            found += self.urls.domain_lists
        if self.toxicity is not None:
            found += self.toxicity.word_files.values()
            found += [self.toxicity.classifier] if self.toxicity.classifier != "packaged" else []
        if self.quality is not None:
            found.append(self.quality.model)
        return found


class CurateConfig(LocalSteps):
    """Everything between the sources and the curated corpus. The steps run in the order of the keys; null leaves a step
    out. A preset gives other defaults; what is written beside it goes first.
    """

    per_source: dict[str, LocalSteps] = Field(
        default={},
        description="other steps, up to quality, for a source by name: a preset, or changes to the stage's own steps",
    )
    exact: ExactConfig | None = ExactConfig()
    minhash: MinHashConfig | None = MinHashConfig()
    decontaminate: DecontaminateConfig | None = None
    repeated_spans: SpanConfig | None = None
    sample: SampleConfig | None = None
    held_out: HeldOutConfig = HeldOutConfig()
    tokenizer: str | None = Field(default=None, description="a tokenizer folder that the data card counts tokens with")
    split_bytes: Annotated[int, Field(ge=1 << 16)] = Field(
        default=32 << 20, description="sources are worked on, and written, in parts of about so many bytes"
    )
    executor: Literal["local", "ray"] = Field(default="local", description="a pool of processes here, or a Ray cluster")
    workers: PositiveInt | None = Field(default=None, description="processes; default: one per core")

    INCIDENTAL: ClassVar[tuple[str, ...]] = ("executor", "workers")

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> Self:
        """The configuration of what a recipe would say, presets included. pydantic `ValidationError` for mistakes."""
        return cls.model_validate(expand(given))

    def files(self) -> list[str]:
        """As of `LocalSteps`, with those of the sources' own steps, evaluation sets and the card's tokenizer."""
        found = super().files()
        for steps in self.per_source.values():
            found += steps.files()
        if self.decontaminate is not None:
            found += [one.path for one in self.decontaminate.sets.values()]
        found += [self.tokenizer] if self.tokenizer is not None else []
        return list(dict.fromkeys(found))

    def steps_for(self, source: str) -> LocalSteps:
        """The steps that a source's documents go through."""
        return self.per_source.get(source, self)


def expand(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is written, with presets filled in: for the stage, and for each source that has steps of its own.

    A source's steps start from the stage's own, unless they name a preset. Anything that is no mapping is left as it
    is, for the check that follows to complain of.
    """
    filled = with_limits(with_preset(given, set(CurateConfig.model_fields)))
    sources = given.get("per_source")
    if isinstance(sources, Mapping):
        local = set(LocalSteps.model_fields)
        base = {key: value for key, value in filled.items() if key in local}
        filled["per_source"] = {
            name: with_limits(with_preset(steps, local) if "preset" in steps else merged(base, steps))
            if isinstance(steps, Mapping)
            else steps
            for name, steps in sources.items()
        }
    return filled


def with_preset(given: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """`given` over its preset's values, of which only `known` keys are taken."""
    name = given.get("preset")
    defaults = PRESETS.get(name, {}) if isinstance(name, str) else {}
    return merged({key: value for key, value in defaults.items() if key in known}, given)


def with_limits(given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the limits by n of `gopher_repetition` completed: to write one turns none of the others off."""
    block = given.get("gopher_repetition")
    if not isinstance(block, Mapping):
        return given
    filled = dict(block)
    for key, defaults in (("max_top_ngram", TOP_NGRAM), ("max_duplicate_ngrams", DUPLICATE_NGRAMS)):
        limits = block.get(key)
        if isinstance(limits, Mapping) and limits:
            filled[key] = {**{str(n): limit for n, limit in defaults.items()}, **{str(n): v for n, v in limits.items()}}
    return {**given, "gopher_repetition": filled}
