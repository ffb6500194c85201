"""What a recipe says about web pages: taking the article out, and judging by address. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from luopan.corpus.config_base import Bytes, Count, Frozen

# Written for Luopan, English alone, and short on purpose: words that hardly stand in the address of a page worth
# reading. Whoever filters at scale gives lists of domains as well.
STRICT_WORDS = (
    "porn", "porno", "pornhub", "xxx", "xvideos", "xnxx", "xhamster", "redtube", "youporn", "hentai", "milf", "milfs",
    "blowjob", "blowjobs", "cumshot", "gangbang", "creampie", "camgirl", "camgirls", "sexcam", "sexcams", "livesex",
    "onlyfans", "escorts", "fetish", "bdsm", "upskirt", "shemale", "nsfw", "viagra", "cialis",
)  # fmt: skip
SOFT_WORDS = (
    "adult", "sex", "sexy", "nude", "nudes", "naked", "erotic", "erotica", "hot", "teen", "teens", "babes", "girls",
    "amateur", "webcam", "cam", "cams", "escort", "dating", "hookup", "casino", "casinos", "poker", "slots", "betting",
    "gambling", "jackpot", "bonus", "payday", "loan", "loans", "pills", "pharmacy", "cheap", "replica", "torrent",
    "warez", "crack", "keygen",
)  # fmt: skip


class ExtractConfig(Frozen):
    """The article out of an HTML page (trafilatura); documents that are no HTML pass untouched.

    Figures as far as they go are limits that depend on the page alone. `max_seconds` depends on the machine too: it is
    a net below them, in the main thread of a process alone.
    """

    favour: Literal["precision", "balance", "recall"] = Field(
        default="precision", description="less text that is all article, or more text with some menu in it"
    )
    tables: bool = Field(default=True, description="keep the text of tables")
    comments: bool = Field(default=False, description="keep readers' comments below an article")
    max_html_bytes: Bytes | None = Field(default=4 << 20, description="larger pages are set aside")
    max_elements: PositiveInt | None = Field(default=100_000, description="pages with more tags are set aside")
    max_seconds: PositiveFloat | None = Field(default=30, description="a page that takes longer is set aside")


class UrlConfig(Frozen):
    """Documents that carry an address (`url` in their meta), by lists of domains and words; others pass, counted.

    Words are compared whole, in lower case, split where the address has no letter or digit.
    """

    domains: tuple[str, ...] = Field(default=(), description="domains that are left out, with all below them")
    domain_lists: tuple[str, ...] = Field(
        default=(), description="files with a domain per line (# comment; hosts files too; .gz or .zst)"
    )
    allow: tuple[str, ...] = Field(default=(), description="domains that pass whatever the lists say")
    words: tuple[str, ...] = Field(default=STRICT_WORDS, description="one of these in an address is enough")
    substrings: tuple[str, ...] = Field(
        default=(), description="one of these anywhere in an address is enough, spelt together or not"
    )
    soft_words: tuple[str, ...] = Field(default=SOFT_WORDS, description="several different ones are needed of these")
    max_soft_words: Count = Field(default=1, description="more of them than this in an address leave a document out")

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> UrlConfig:
        lists = ("domains", "domain_lists", "words", "substrings", "soft_words")
        if not any(getattr(self, key) for key in lists):
            raise ValueError(f"no list is given ({', '.join(lists)}): null leaves the step out")
        if not self.soft_words and "max_soft_words" in self.model_fields_set:
            raise ValueError("max_soft_words has no effect: soft_words is empty")
        for key in ("domains", "allow", "words", "substrings", "soft_words"):
            if any(not value.strip() for value in getattr(self, key)):
                raise ValueError(f"{key} holds an empty word, which would match everything")
        return self
