"""Web pages as raw HTML text with `format: html` in their meta; the `extract` step takes the article out of them.

The encoding is what the byte order mark, the server or the page itself says, UTF-8 otherwise; it is never guessed at.
A page with a few bytes that do not fit (one in a thousand) is read with marks in their place, others are set aside.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import open_binary
from luopan.corpus.read_rows import Part, Rows, aside, document, too_long

HEAD = 4096  # bytes in which a page says its encoding
CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.I)
DECLARATION = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""", re.I)
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
# The encodings of the web (encoding.spec.whatwg.org). Some names stand for a larger set, as browsers have it.
LARGER = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "iso8859-9": "cp1254",
          "tis-620": "cp874", "iso8859-11": "cp874", "euc_kr": "cp949", "shift_jis": "cp932"}  # fmt: skip
ENCODINGS = frozenset({
    "utf-8", "ibm866", "cp866", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "gb18030", "big5", "big5hkscs",
    "euc_jp", "iso2022_jp", "cp932", "cp949", "cp874", *(f"cp125{n}" for n in range(9)),
    *(f"iso8859-{n}" for n in range(2, 17)),
})  # fmt: skip
ALLOWED_SHARE = 0.001  # of a page's characters that may stand in for bytes that do not fit


def read_html(source: Rows, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """A .html file as one document of raw HTML."""
    with open_binary(found.path) as file:
        data = file.read(source.max_line_bytes + 1)
    if len(data) > source.max_line_bytes:
        yield too_long(source, found, max(found.size, len(data)))
        return
    text, detail = decoded(data, None)
    if text is None:
        yield aside(source, found, "encoding", detail, size=len(data))
    else:
        yield document(source, found, text, None, {"format": "html"})


def decoded(data: bytes, said: str | None) -> tuple[str | None, str]:
    """(the page's text, "") or (None, what is wrong). `said` is the encoding that the server named."""
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return within(data[len(mark) :], name)
    head = data[:HEAD]
    inside = CHARSET.search(head) or DECLARATION.search(head)
    name = encoding_of(said) or encoding_of(inside.group(1).decode("ascii", "replace") if inside else None) or "utf-8"
    for encoding in dict.fromkeys([name, "utf-8"]):  # pages that are UTF-8 and say otherwise are common
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, UnicodeError):
            continue
        if "\0" not in text:
            return text, ""
    return within(data, name)


def within(data: bytes, encoding: str) -> tuple[str | None, str]:
    """The text with U+FFFD for bytes that do not fit and for zero bytes, if there are few."""
    text = data.decode(encoding, "replace").replace("\0", "\ufffd")
    bad = text.count("\ufffd")
    if bad > len(text) * ALLOWED_SHARE:
        return None, f"{bad:,} of {len(text):,} characters are not {encoding.upper()}"
    return text, ""


def encoding_of(label: str | None) -> str | None:
    """Python's name of the encoding that a page means, or None if it is none of the web's."""
    try:
        name = codecs.lookup(label.strip()).name if label else ""
    except (LookupError, UnicodeError, ValueError):
        return None
    name = LARGER.get(name, name)
    return name if name in ENCODINGS else None
