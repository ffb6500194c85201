"""Finds personal data and secrets in text: e-mail addresses, telephone numbers, IP addresses, payment cards, IBANs,
keys. Patterns with checks (Luhn, ISO 7064, public address ranges, issuers' prefixes), no model.

A search over the whole text is dear, so each kind first looks for what it cannot do without: an at sign, a run of
digits, a key's fixed beginning (`personal_hints.py` does so for many texts at once). Checks then tell the kind from
what looks like it: years, dates, ISBNs, version numbers, decimals, identifiers.

Limits: names, street addresses and national identity numbers are not looked for. A telephone number needs a plus sign,
the punctuation of a known form or a word such as "phone" before it. Addresses spelt out ("at", "dot") stay. A key
without a known beginning is found only where a name such as `api_key` or `password` is given it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from luopan.corpus.personal_hints import EVERYTHING, KEY_DIGITS, KEY_RUN, Hint
from luopan.corpus.safety_config import PiiKind


class Span(NamedTuple):
    """`text[start:end]` is of `kind`."""

    start: int
    end: int
    kind: PiiKind


# ---- e-mail

LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?$|[A-Za-z0-9_]$")
LOCAL_REACH = 64  # characters before the at sign, RFC 5321
DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_-])")
# "icon@2x.png" and "git@github.com:owner/name" are none.
FILE_ENDINGS = frozenset(["png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "ts", "json", "html", "py"])


def emails(text: str) -> Iterator[Span]:
    """Addresses as they are written: local part, at sign, domain with a letters-only ending."""
    at = text.find("@")
    while at >= 0:
        local = LOCAL.search(text[max(0, at - LOCAL_REACH) : at])
        domain = DOMAIN.match(text, at + 1)
        if local and domain and not is_no_address(text, local.group(), domain):
            yield Span(at - len(local.group()), domain.end(), "email")
            at = domain.end() - 1
        at = text.find("@", at + 1)


def is_no_address(text: str, local: str, domain: re.Match[str]) -> bool:
    """A file's name, or the place of a repository."""
    if domain.group().rsplit(".", 1)[1].lower() in FILE_ENDINGS:
        return True
    end = domain.end()
    return local.lower() in ("git", "hg", "svn") and text[end : end + 1] in (":", "/")


# ---- runs of digits: cards and telephones (and IPv4 addresses, whose form is below)

NUMBER_RUN = re.compile(r"[0-9][0-9 ().\-\u2010-\u2013]{5,}[0-9]")
DIGIT = re.compile(r"[0-9]")
CARD = re.compile(
    r"(?<![0-9])(?:[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
    r"|3[47][0-9]{2}([ -])[0-9]{6}\2[0-9]{5})(?![0-9])"
)
ISSUER = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6(?:011|4[4-9]|5|2)|35(?:2[89]|[3-8])|3(?:0[0-5]|[689])"
)
CARD_SIZES = {"3": (14, 15, 16), "4": (13, 16, 19), "5": (16,), "2": (16,), "6": (16, 17, 18, 19)}
DASH = r"[-\u2010-\u2013]"
INTERNATIONAL = re.compile(
    rf"\+[1-9][0-9]{{0,2}}(?:(?: ?\([0-9]{{1,4}}\) ?)|[ .]|{DASH})?[0-9](?:(?:[ .]|{DASH})?[0-9]){{5,12}}(?![0-9])"
)
# (212) 555-0123, 212-555-0123, 212.555.0123, 1-212-555-0123
NORTH_AMERICA = re.compile(
    rf"(?<![0-9.\-])(?:1[ .\-])?(?:\([2-9][0-9]{{2}}\)[ .\-]?[2-9][0-9]{{2}}(?:[ .]|{DASH})[0-9]{{4}}"
    rf"|[2-9][0-9]{{2}}({DASH}|\.)[2-9][0-9]{{2}}\1[0-9]{{4}})(?![0-9]|[.\-][0-9])"
)
# (020) 7946 0958, 020 7946 0958, 01632-960-123
TRUNK = re.compile(
    rf"(?<![0-9.\-])(?:\(0[1-9][0-9]{{0,4}}\) ?|0[1-9][0-9]{{1,4}}(?: |{DASH}))"
    rf"[0-9]{{3,4}}(?: |{DASH})?[0-9]{{3,5}}(?![0-9]|[.\-][0-9])"
)
AFTER_A_WORD = re.compile(rf"(?<![0-9])\(?[0-9](?:(?:[ .()]|{DASH}){{0,2}}[0-9]){{6,14}}(?![0-9])")
CHINESE_MOBILE = re.compile(rf"(?<![0-9])1[3-9][0-9](?:[ ]|{DASH})?[0-9]{{4}}(?:[ ]|{DASH})?[0-9]{{4}}(?![0-9])")
PHONE_WORD = re.compile(
    r"(?:\b(?:tele)?phones?|\btel(?:efon|éfono)?|\bcall(?: us| me| him| her| them)?|\bfax|\bmobile|\bcell|\bhotline"
    r"|\bwhatsapp|\bsms|\btext(?: us| me)|\bdial|\bcontact|\bph|电话|電話|手机|手機|传真|傳真|热线|熱線|携帯|联系方式)"
    r"(?: ?(?:numbers?|no|nr|nos|at|on|is|line|free|now|today|toll[- ]free|号码|號碼|号|#))*[\s.:：)#/=|*-]{0,4}\Z",
    re.I,
)
PART_OF_A_NAME = ("/", ".", "_", "=", "%")  # what stands before a number inside an address or file name
WORD_REACH = 32  # characters before a number in which a telephone word is looked for
BOOK_WORD = re.compile(r"(?:ISBN|ISSN|EAN|DOI|OCLC|ASIN|UPC|arXiv)[-:\s0-9.()]{0,10}\Z", re.I)
HAN = re.compile(r"[\u4e00-\u9fff]")


def numbers(text: str, kinds: frozenset[PiiKind]) -> Iterator[Span]:
    """IPv4 addresses, cards and telephone numbers: all of them live in the same runs of digits."""
    for run in NUMBER_RUN.finditer(text):
        start, end = run.span()
        before, after = text[max(0, start - WORD_REACH) : start], text[end : end + 1]
        glued = is_ascii_letter(before[-1:]) or before[-1:] == "_" or is_ascii_letter(after) or after == "_"
        if glued or BOOK_WORD.search(before):
            continue
        if "ip" in kinds and (found := IPV4.search(text, start, end)):
            if before[-1:] != "." and is_address(
                found.group(), text[max(0, found.start() - WORD_REACH) : found.start()]
            ):
                yield Span(*found.span(), "ip")
            continue
        if after == "/" or before[-1:] in PART_OF_A_NAME:
            continue
        cards = [Span(*found.span(), "card") for found in CARD.finditer(text, start, end) if is_card(found.group())]
        if cards:
            yield from cards if "card" in kinds else ()
        elif "phone" in kinds:
            yield from phones(text, start, end, before)


def is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def is_card(written: str) -> bool:
    """Length and beginning are an issuer's, and the check digit holds."""
    digits = "".join(DIGIT.findall(written))
    fits = len(digits) in CARD_SIZES.get(digits[0], ()) and ISSUER.match(digits)
    return bool(fits) and luhn(digits) and len(set(digits)) > 1


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: from the right, every second digit doubled, its digits added; a multiple of ten."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def phones(text: str, start: int, end: int, before: str) -> Iterator[Span]:
    """Telephone numbers in a run of digits, `text[start:end]`."""
    if before.endswith("+"):
        found = INTERNATIONAL.match(text, start - 1)
        # "1.2E+1234567" and "y = 42+13.857523" are sums and exponents.
        if found and not before[-2:-1].isalnum() and before[-2:-1] != ")" and found.group().count(".") != 1:
            yield Span(start - 1, found.end(), "phone")
        return
    opened = start - before.endswith("(")
    patterns = [NORTH_AMERICA, TRUNK]
    if HAN.search(before[-8:]) or HAN.match(text, end):
        patterns.append(CHINESE_MOBILE)
    if is_isbn(text[start:end]):
        return
    for pattern in patterns:
        spans = [Span(*found.span(), "phone") for found in pattern.finditer(text, opened, end)]
        if spans := [span for span in spans if not looks_like_a_date(text[span.start : span.end])]:
            yield from spans
            return
    if PHONE_WORD.search(before[:-1] if opened < start else before):
        found = AFTER_A_WORD.match(text, opened, end)
        if found and not looks_like_a_date(found.group()):
            yield Span(opened, found.end(), "phone")


def looks_like_a_date(written: str) -> bool:
    """2020-01-31 12, 31.01.2020, or a span of years."""
    return bool(
        re.match(r"\(?(?:1[5-9]|20)[0-9]{2}[-. –](?:[01]?[0-9][-. ]|(?:1[5-9]|20)[0-9]{2}\b)", written)
    ) or bool(re.match(r"[0-3]?[0-9][-. ][0-3]?[0-9][-. ](?:1[5-9]|20)[0-9]{2}\b", written))


def is_isbn(written: str) -> bool:
    """The check digit of ISBN-13 or ISBN-10 holds, and the number is written as books do."""
    digits = "".join(DIGIT.findall(written))
    if len(digits) == 13 and digits[:3] in ("978", "979"):
        return sum(int(digit) * (1 + 2 * (place % 2)) for place, digit in enumerate(digits)) % 10 == 0
    return (
        len(digits) == 10 and written.count("-") == 3 and sum(int(d) * (10 - n) for n, d in enumerate(digits)) % 11 == 0
    )


# ---- IP addresses

IPV4 = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.?[0-9])")
VERSION_WORD = re.compile(
    r"(?:\b(?:version|release|section|chapter|clause|rule|build|firmware|driver|v|ver|rev|art)|§)s?[.:]?[\s\"'(]*\Z",
    re.I,
)
IPV6_MARK = re.compile(r":[0-9A-Fa-f]{0,4}:")
IPV6_REACH = 45
IPV6_BEFORE = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{1,4})*\Z")
IPV6_AFTER = re.compile(r"[0-9A-Fa-f:]*")


def is_address(written: str, before: str) -> bool:
    """A public address; not a version or a section, whose numbers are small or named so."""
    small = all(len(octet) == 1 for octet in written.split("."))
    return not small and not VERSION_WORD.search(before) and is_public(written)


def ipv6_addresses(text: str) -> Iterator[Span]:
    """Addresses that are given to machines on the internet, all of which begin with 2 or 3 (RFC 4291)."""
    end = 0
    for mark in IPV6_MARK.finditer(text):
        before = IPV6_BEFORE.search(text[max(0, mark.start() - IPV6_REACH) : mark.start()])
        if before is None or mark.start() < end:
            continue
        after = IPV6_AFTER.match(text, mark.start())
        assert after is not None
        start, end = mark.start() - len(before.group()), after.end()
        written = text[start:end] if text[start:end].endswith("::") else text[start:end].rstrip(":")
        groups = [group for group in written.split(":") if group]
        if len(groups) >= 3 and not is_ascii_letter(text[end : end + 1]) and is_public(written):
            yield Span(start, start + len(written), "ip")


def is_public(written: str) -> bool:
    """An address that is routed on the internet; private, local and documentation ranges say nothing about anyone."""
    try:
        address = ipaddress.ip_address(written)
        return address.is_global and not address.is_multicast
    except ValueError:
        return False


# ---- IBAN

# A capital first and what must not stand before it second: the search then jumps from capital to capital.
IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")


def ibans(text: str) -> Iterator[Span]:
    """Account numbers whose check digits hold (ISO 13616, ISO 7064 mod 97-10)."""
    for run in IBAN.finditer(text):
        parts = run.group().split(" ")
        # A group too many is a word that follows: "… 3000 12 of" would fail as a whole.
        for last in range(len(parts), 0, -1):
            written = " ".join(parts[:last])
            compact = written.replace(" ", "")
            if 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1:
                yield Span(run.start(), run.start() + len(written), "iban")
                break


# ---- keys

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----.{0,8192}?"
    r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.S,
)
# What the issuers write about the form of their keys: a literal that `in` finds quickly, and the whole form.
KEY_FORMS: tuple[tuple[str, str], ...] = (
    ("-----BEGIN", PRIVATE_KEY.pattern),
    ("AKIA", r"(?<![A-Za-z0-9])AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ASIA", r"(?<![A-Za-z0-9])ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("AIza", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("ya29.", r"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{30,}"),
    ("ghp_", r"(?<![A-Za-z0-9])ghp_[A-Za-z0-9]{36,251}(?![A-Za-z0-9])"),
    ("gho_", r"(?<![A-Za-z0-9])gho_[A-Za-z0-9]{36,251}(?![A-Za-z0-9])"),
    ("ghs_", r"(?<![A-Za-z0-9])ghs_[A-Za-z0-9]{36,251}(?![A-Za-z0-9])"),
    ("github_pat_", r"(?<![A-Za-z0-9])github_pat_[A-Za-z0-9_]{50,}"),
    ("glpat-", r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}"),
    ("hf_", r"(?<![A-Za-z0-9])hf_[A-Za-z]{30,40}(?![A-Za-z0-9])"),
    ("npm_", r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    ("pypi-A", r"(?<![A-Za-z0-9])pypi-A[A-Za-z0-9_-]{50,}"),
    ("sk-", r"(?<![A-Za-z0-9])sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"),
    ("k_live_", r"(?<![A-Za-z0-9])[sr]k_live_[A-Za-z0-9]{16,}"),
    ("k_test_", r"(?<![A-Za-z0-9])[sr]k_test_[A-Za-z0-9]{16,}"),
    ("xox", r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{20,}"),
    ("SG.", r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{40,45}"),
    ("eyJ", r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
)
# name = "value": the name says it is secret, the value looks drawn at random.
GIVEN = re.compile(r"[=:]\s{0,3}[\"'`]?([A-Za-z0-9_+/.~-]{16,}={0,2})")
SECRET_NAME = re.compile(
    r"(?:api[-_ ]?key|secret(?:[-_ ]?(?:access)?[-_ ]?key)?|access[-_ ]?key|token|passw(?:or)?d|pwd)"
    r"[\"'`]?\s{0,3}(?:[:=]>?)?\Z",
    re.I,
)
NAME_REACH = 32
IN_ADDRESS = re.compile(r"://[^\s:/@]{1,64}:([^\s:/@<>]{4,128})@")


@lru_cache(maxsize=1)
def key_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each key's fixed part and its whole form."""
    return tuple((literal, re.compile(form, re.S)) for literal, form in KEY_FORMS)


def keys(text: str) -> Iterator[Span]:
    """Keys in their issuers' form, private keys, and values given to names of secrets."""
    for literal, form in key_patterns():
        if literal in text:
            for run in form.finditer(text):
                yield Span(*run.span(), "key")
    for run in GIVEN.finditer(text):
        if SECRET_NAME.search(text[max(0, run.start() - NAME_REACH) : run.start() + 1]) and looks_random(run.group(1)):
            yield Span(*run.span(1), "key")


def passwords(text: str) -> Iterator[Span]:
    """Passwords in addresses: https://user:password@host."""
    if "://" in text:
        for run in IN_ADDRESS.finditer(text):
            yield Span(*run.span(1), "key")


def looks_random(value: str) -> bool:
    """Digits and letters mixed, many different ones, and not the pieces of a path or a dotted name."""
    piece = max(re.split(r"[./~]", value), key=len)
    held = sum(character.isdigit() for character in piece)
    digits, letters = (sum(map(kind, value)) for kind in (str.isdigit, str.isalpha))
    return len(piece) >= KEY_RUN and held >= KEY_DIGITS and digits >= 2 and letters >= 4 and len(set(value)) >= 10


# ---- all of them


def find(text: str, kinds: Collection[PiiKind], hint: Hint = EVERYTHING) -> list[Span]:
    """What is found of the given kinds, in order and not overlapping. Of two that overlap, the kind that is looked for
    first stays: a key that holds digits is a key. `hint` leaves out what the text cannot hold."""
    wanted = frozenset(kinds)
    found: list[Span] = []
    finders: list[Iterable[Span]] = []
    if "key" in wanted:
        finders += [keys(text)] * hint.key + [passwords(text)]
    if "email" in wanted:
        finders.append(emails(text))
    if "iban" in wanted and hint.iban:
        finders.append(ibans(text))
    if "ip" in wanted:
        finders.append(ipv6_addresses(text))
    if hint.number and not wanted.isdisjoint(("ip", "card", "phone")):
        finders.append(numbers(text, wanted))
    for finder in finders:
        for span in finder:
            if not any(span.start < other.end and other.start < span.end for other in found):
                found.append(span)
    return sorted(found)
