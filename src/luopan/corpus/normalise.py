"""Make text regular: encoding, line endings, Unicode form, control characters, spaces; and cut very long texts.

Pure functions of text. Tabs, indentation and the zero-width joiners that Persian, Indic scripts and emoji need are
kept. Markup stays: a document is taken to be text.
"""

from __future__ import annotations

import re
import unicodedata

from luopan.corpus.encoding import fix_encoding, rare, suspicious, unescape_entities
from luopan.corpus.filter_config import NormaliseConfig

LINE_ENDS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
LINE_ENDING = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# C0 and C1 controls except tab and newline, soft hyphen, zero-width space, word joiner, byte order mark,
# bidirectional marks and overrides, interlinear marks, non-characters.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
# All but what most texts are made of: a mark that joins the character before it, or a form that NFC replaces, perhaps.
COMPOSABLE = re.compile("[^\x00-\u02ff\u0400-\u0482\u2010-\u205e\u3000-\u3029\u4e00-\u9fff\uff01-\uffef]")
START_MARK = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG[^*]*\*\*\*", re.I | re.M)
END_MARK = re.compile(
    r"^(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg)", re.I | re.M
)
TRAILING_SPACE = re.compile("[ \t\u3000]+(?=\n|\\Z)")


def normalise(text: str, config: NormaliseConfig) -> str:
    """`text` with regular line endings, and whatever `config` asks for. DataError if that takes a missing library."""
    odd = rare(text)  # nearly all texts show by these few characters that there is nothing to do
    if config.fix_encoding and suspicious(odd):
        text = fix_encoding(text)
        odd = rare(text)
    if config.unescape_entities and "&" in text:
        resolved = unescape_entities(text)
        if resolved is not text:
            text, odd = resolved, rare(resolved)
    if odd:
        text = regular_characters(text, odd, config)
    if config.whitespace:
        text = regular_spaces(text)
    if config.strip_gutenberg:
        text = strip_gutenberg(text)
    return limit_blank_lines(text, config.max_blank_lines).strip("\n")


def regular_characters(text: str, odd: str, config: NormaliseConfig) -> str:
    """Line ends, controls, Unicode form and typographic spaces; `odd` has the `rare` characters of `text`."""
    if any(end in odd for end in LINE_ENDS):
        text = LINE_ENDING.sub("\n", text)
    if config.strip_control and CONTROL.search(odd):
        text = CONTROL.sub("", text)
    if config.nfc and (odd is text or COMPOSABLE.search(odd)):
        text = unicodedata.normalize("NFC", text)
    if config.whitespace and ODD_SPACE.search(odd):
        text = ODD_SPACE.sub(" ", text)
    return text


def regular_spaces(text: str) -> str:
    """Spaces and tabs at line ends go."""
    # Looking for literal strings first is many times faster than the expression on text that is clean already.
    if text[-1:] in " \t\u3000" or any(space in text and f"{space}\n" in text for space in " \t\u3000"):
        text = TRAILING_SPACE.sub("", text)
    return text


def limit_blank_lines(text: str, most: int) -> str:
    """Runs of more than `most` blank lines are cut to `most`."""
    allowed = "\n" * (most + 1)
    if allowed + "\n" not in text:
        return text
    return re.sub(f"\n{{{most + 2},}}", allowed, text)


def strip_gutenberg(text: str) -> str:
    """`text` without Project Gutenberg's header and licence, where its marks stand."""
    if "utenberg" not in text and "UTENBERG" not in text:
        return text
    if start := START_MARK.search(text):
        text = text[start.end() :]
    if end := END_MARK.search(text):
        text = text[: end.start()]
    return text.strip("\n")


def cut(text: str, max_bytes: int) -> list[str]:
    """`text` in pieces of at most `max_bytes` of UTF-8, cut at the last blank line, line end or space that fits.

    Pieces are of nearly equal size, so that no scrap is left at the end. Joined, they are the text but for the white
    space at the cuts.
    """
    size = utf8_length(text)
    if size <= max_bytes:
        return [text]
    pieces = []
    while size > max_bytes:
        count = -(-size // max_bytes)
        # Some slack above the equal share lets a paragraph end fall inside it.
        wanted = min(max_bytes, int(size / count * 1.1) + 1)
        end = cut_position(text, wanted)
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip("\n ")
        size = utf8_length(text)
    return [piece for piece in [*pieces, text] if piece]


def cut_position(text: str, max_bytes: int) -> int:
    """Where to cut (a character index > 0) so that what is before has at most `max_bytes` bytes of UTF-8."""
    head = text[:max_bytes].encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")
    for border in ("\n\n", "\n", " "):
        at = head.rfind(border)
        if at > len(head) // 2:
            return at + len(border)
    return len(head)


def utf8_length(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))
