"""Leave documents out by the address they come from: listed domains, and words that give a page away.

The scheme is RefinedWeb's (arXiv:2306.01116, appendix G.1): a list of domains, words of which one is enough, and soft
words of which several are needed. The words that ship are few and English; who filters at scale gives a list of domains
(the blacklists of Université Toulouse Capitole, for one, are free).
"""

from __future__ import annotations

import hashlib
import re
from array import array
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.document import Rejected
from luopan.corpus.lines import open_binary
from luopan.corpus.web_config import UrlConfig
from luopan.errors import DataError

STEP = "urls"
SEPARATORS = re.compile(r"[\W_]+")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
HASH_BYTES = 8  # a list of five million domains takes 40 MB so; one in 10^12 other domains is taken for a listed one


class Match(NamedTuple):
    """Why an address is refused."""

    rule: str
    value: float
    threshold: float
    detail: str


def urls(batch: DocumentBatch, config: UrlConfig) -> Outcome:
    """The batch without refused addresses. Rules: `domains`, `words`, `substrings`, `max_soft_words`.

    Counts documents `without_url`; they pass, as do addresses that cannot be read (`unreadable`).
    """
    keep: list[bool] = []
    rejected: list[Rejected] = []
    counts = {"without_url": 0, "unreadable": 0}
    for row, meta in enumerate(batch.metas):
        url = meta.get("url")
        match = None
        if not isinstance(url, str) or not url.strip():
            counts["without_url"] += 1
        elif (parts := parts_of(url)) is None:
            counts["unreadable"] += 1
        else:
            match = refused(*parts, config)
        keep.append(match is None)
        if match is not None:
            rejected.append(
                rejection(batch, row, STEP, match.rule, value=match.value, threshold=match.threshold,
                          detail=match.detail)
            )  # fmt: skip
    return Outcome(batch.keep(keep), rejected, {name: count for name, count in counts.items() if count})


def refused(host: str, rest: str, config: UrlConfig) -> Match | None:
    """The first rule that refuses an address of this host and path."""
    above = parents(host)
    if any(domain in inline(config.allow) for domain in above):
        return None
    listed = inline(config.domains)
    named = next((domain for domain in above if domain in listed), None)
    if named is None and config.domain_lists:
        named = next((domain for domain in above if is_listed(domain, config.domain_lists)), None)
    if named is not None:
        return Match("domains", 1, 0, f"{named} is listed")
    address = f"{host} {rest}"
    words = set(SEPARATORS.split(address))
    if strict := sorted(words & lowered(config.words)):
        return Match("words", len(strict), 0, ", ".join(strict[:5]))
    if config.substrings:
        joined = SEPARATORS.sub("", address)
        if inside := sorted(part for part in lowered(config.substrings) if part in joined):
            return Match("substrings", len(inside), 0, ", ".join(inside[:5]))
    soft = sorted(words & lowered(config.soft_words))
    if len(soft) > config.max_soft_words:
        return Match("max_soft_words", len(soft), config.max_soft_words, ", ".join(soft[:5]))
    return None


def parts_of(url: str) -> tuple[str, str] | None:
    """(host, path and query, unquoted), both in lower case; None where the address has no host."""
    url = url.strip()
    try:
        parts = urlsplit(url if SCHEME.match(url) else f"//{url.lstrip('/')}")
        host = parts.hostname
    except ValueError:  # a broken IPv6 address and the like
        return None
    if not host:
        return None
    return plain_host(host), unquote(f"{parts.path} {parts.query}").lower()


def plain_host(host: str) -> str:
    """A host as lists have it: lower case, without www, letters outside ASCII in their xn-- form."""
    host = host.strip().strip(".").lower().removeprefix("www.")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def parents(host: str) -> list[str]:
    """The host and every domain above it: a.b.org, b.org, org."""
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


@lru_cache(maxsize=8)
def inline(domains: tuple[str, ...]) -> frozenset[str]:
    return frozenset(plain_host(domain) for domain in domains)


@lru_cache(maxsize=16)
def lowered(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in words)


def is_listed(domain: str, paths: tuple[str, ...]) -> bool:
    """True if a domain stands in one of the files."""
    hashes = listed_hashes(paths)
    wanted = np.uint64(hash_of(domain))
    at = int(np.searchsorted(hashes, wanted))
    return at < len(hashes) and hashes[at] == wanted


@lru_cache(maxsize=4)
def listed_hashes(paths: tuple[str, ...]) -> np.ndarray:
    """[N] sorted uint64 hashes of the domains in the files. DataError if a file is missing or holds none."""
    hashes: list[np.ndarray] = []
    for path in paths:
        try:
            hashes.append(read_list(Path(path).expanduser()))
        except OSError as error:
            raise DataError(
                f"the list of domains cannot be read: {error.strerror}", where=path, hint="Look at urls.domain_lists."
            ) from error
        if not len(hashes[-1]):
            raise DataError("no domain stands in this list", where=path, hint="It holds a domain per line.")
    return np.unique(np.concatenate(hashes))


def read_list(path: Path) -> np.ndarray:
    """[N] hashes of the domains of a file: the last word of each line that is no comment, as hosts files have it."""
    found = array("Q")
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            words = line.split(b"#")[0].split()
            if not words:
                continue
            try:
                found.append(hash_of(plain_host(words[-1].decode("utf-8"))))
            except UnicodeDecodeError as error:
                raise DataError(
                    "this is no list of domains: a line is not UTF-8 text",
                    where=f"{path}:{number}",
                    hint="It holds a domain per line.",
                ) from error
    return np.array(found, np.uint64)


def hash_of(domain: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(domain.encode("utf-8", "replace"), digest_size=HASH_BYTES).digest(), "little")
