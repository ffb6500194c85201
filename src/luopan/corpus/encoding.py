"""Mend text that was decoded with the wrong encoding, and named characters (&eacute;) left over from markup.

ftfy does the mending (Speer, "ftfy", 2019), one line at a time, on the lines that look broken. It looks at 4 MB/s; most
text shows by a few plain searches that it cannot be broken, and then ftfy is not even imported.
Limits: ftfy knows text in Latin, Greek, Cyrillic, Arabic and Hebrew letters read as another single-byte encoding;
Chinese or Japanese in the wrong encoding is not recognised. What was lost (�) stays lost.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import lru_cache

from luopan.errors import DataError

# What ftfy's rules for broken text are made of: the characters that single-byte encodings have for bytes over 127. Its
# rules need two of them side by side, but for a few. PAIR is the quick form of BROKEN: most lines have no such pair.
BROKEN = re.compile(
    "[{0}][{0}]".format(
        "\u0080-\u00ff\u0100-\u017f\u0192\u02c6-\u02dd\u0384-\u03ce\u0401-\u045f\u0490\u0491\u2013-\u203a\u2044\u20a7"
        "\u20ac\u2116\u2122\u2202-\u2265\u2310\u2500-\u2593\u25ca\uf8ff\ufb01\ufb02\ufffd"
    )
)
PAIR = re.compile("[^\x00-\x7f][^\x00-\x7f]")
CONTROL = re.compile("[\x80-\x9f]")
# Plain ASCII as spaces; the white space that is not plain as a separator of records, which bytes.split leaves.
BLANKED = bytes.maketrans(bytes([9, 10, *range(0x21, 0x7F), 0x0B, 0x0C, 0x0D]), b" " * 96 + b"\x1c" * 3)
ALONE = ("\u00c2 ", "\u00c3 ", "\u0152", "\u0153")  # Â and Ã before a space, Œ, œ
ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,32};")
MISSING = "pip install 'luopan[data]', or set normalise.fix_encoding to false."


def rare(text: str) -> str:
    """The runs of characters other than printable ASCII, tabs and line feeds, each once, parted by spaces.

    Searching these for a character or a pair takes a tenth of the time that the text takes. \\r, \\v, \\f are \\x1c.
    A text that is not mostly ASCII is returned as it is.
    """
    if not mostly_ascii(text):
        return text
    runs = set(text.encode("utf-8", "surrogatepass").translate(BLANKED).split())
    return b" ".join([*runs, b""]).decode("utf-8", "surrogatepass")


def mostly_ascii(text: str) -> bool:
    """By its beginning: only the time that a text takes may depend on it."""
    head = text[:256]
    return 4 * len(head.encode("utf-8", "surrogatepass")) <= 5 * len(head)


def suspicious(text: str) -> bool:
    """True wherever ftfy could have something to mend, and at times where it has not."""
    if (PAIR.search(text) and BROKEN.search(text)) or CONTROL.search(text):
        return True
    return any(sign in text for sign in ALONE)


@lru_cache(maxsize=1)
def mender() -> tuple[Callable[[str], bool], Callable[[str], str]]:
    """(does a line look broken, the line mended). DataError if ftfy is not installed."""
    try:
        from ftfy import TextFixerConfig, fix_encoding
        from ftfy.badness import is_bad
    except ImportError:
        message = "a text looks wrongly decoded, and ftfy, which mends it, is not installed"
        raise DataError(message, hint=MISSING) from None
    settings = TextFixerConfig(unescape_html=False, normalization=None)
    return is_bad, lambda line: fix_encoding(line, settings)


def fix_encoding(text: str) -> str:
    """`text` with its wrongly decoded lines mended ("â€™" to "’"). DataError if that takes ftfy and it is missing."""
    if text.isascii() or not suspicious(rare(text)):
        return text
    is_bad, mended = mender()
    return "\n".join(mended(line) if suspicious(rare(line)) and is_bad(line) else line for line in text.split("\n"))


def unescape_entities(text: str) -> str:
    """`text` with HTML's character references resolved, unless a "<" says that it holds markup of its own."""
    if "&" not in text or "<" in text:
        return text
    return ENTITY.sub(lambda match: html.unescape(match.group()), text)
