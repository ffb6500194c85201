"""What a recipe says about toxicity, personal data and a quality classifier. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from luopan.corpus.config_base import Fraction, Frozen

PiiKind = Literal["email", "phone", "ip", "card", "iban", "key"]


class ToxicityConfig(Frozen):
    """Word lists per language, and a small classifier of English passages; each rule is off where its limit is null."""

    languages: tuple[str, ...] = Field(
        default=("en",), description="word lists of installed packages, by ISO 639-1 code: en, zh, de, fr, es, ja …"
    )
    word_files: dict[str, str] = Field(
        default={}, description="lists of your own, a word or phrase per line, by language; '*' is for every language"
    )
    allow: tuple[str, ...] = Field(default=(), description="words of the lists that are not to count")
    max_listed_share: Fraction | None = Field(default=0.01, description="share of the words that stand in a list")
    min_listed: PositiveInt = Field(default=3, description="listed words that a document needs before the share counts")
    classifier: str = Field(
        default="packaged", description="the classifier that comes with luopan, or a file that train-quality wrote"
    )
    passage_score: Fraction = Field(default=0.9, description="a passage with at least this score is called toxic")
    max_toxic_share: Fraction | None = Field(
        default=0.5, description="share of the passages of 100 words that the classifier calls toxic"
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> ToxicityConfig:
        given = self.model_fields_set
        if self.max_listed_share is None and (
            idle := sorted({"languages", "word_files", "allow", "min_listed"} & given)
        ):
            raise ValueError(f"{idle[0]} has no effect: max_listed_share is null, so no word list is used")
        if self.max_toxic_share is None and (idle := sorted({"classifier", "passage_score"} & given)):
            raise ValueError(f"{idle[0]} has no effect: max_toxic_share is null, so no classifier is used")
        if self.max_listed_share is None and self.max_toxic_share is None:
            raise ValueError("max_listed_share and max_toxic_share are both null; write `toxicity: null` instead")
        if self.max_listed_share is not None and not (self.languages or self.word_files):
            raise ValueError("max_listed_share has no effect: neither languages nor word_files name a word list")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The user's files that the result depends on."""
        own = (self.classifier,) if self.max_toxic_share is not None and self.classifier != "packaged" else ()
        return (*(path for _, path in sorted(self.word_files.items())), *own)


class PiiConfig(Frozen):
    """Personal data and secrets, replaced in the text and counted."""

    kinds: tuple[PiiKind, ...] = Field(
        default=("email", "phone", "ip", "card", "key"), min_length=1, description="what is replaced; iban is off"
    )
    placeholders: dict[PiiKind, str] = Field(
        default={},
        description="what stands in its place, by kind; default: <email>, <phone>, <ip>, <card>, <iban>, <key>",
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> PiiConfig:
        if idle := sorted(set(self.placeholders) - set(self.kinds)):
            raise ValueError(f"placeholders.{idle[0]} has no effect: {idle[0]} is not among kinds")
        return self


class QualityConfig(Frozen):
    """A classifier of the user's own, trained on good and bad examples (`luopan corpus train-quality`).

    With neither limit, documents are scored (meta `quality`) and none is dropped.
    """

    model: str = Field(min_length=1, description="the file that `luopan corpus train-quality` wrote")
    min_score: Fraction | None = Field(default=None, description="probability of being good; lower is dropped")
    keep_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="instead of min_score: the share that stays of documents like the bad examples"
    )

    @property
    def files(self) -> tuple[str, ...]:
        """The user's files that the result depends on."""
        return (self.model,)

    @model_validator(mode="after")
    def _one_limit(self) -> QualityConfig:
        if self.min_score is not None and self.keep_fraction is not None:
            raise ValueError("min_score and keep_fraction both say where to cut; leave one of them out")
        return self
