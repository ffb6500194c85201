"""HTML and SVG as strings that cannot forget to escape.

`tag("p", text)` escapes every child that is not already `Markup`, and every attribute. So text from a model, a document
or a recipe stays text wherever it ends up. Control characters, which HTML cannot carry, become visible symbols.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "hr", "img", "meta", "link", "input", "col"})
# SVG shapes are written self-closed; HTML ignores the slash of its own void elements.
SELF_CLOSED = VOID | {"path", "line", "rect", "circle", "polyline", "polygon"}


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


def visible(text: str) -> str:
    """Control characters as their Unicode pictures (NUL → ␀), those that reverse text by name, lone surrogates as
    U+FFFD; newline and tab stay."""
    if text.isprintable():
        return text
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 32 and char not in "\n\t":
        return chr(0x2400 + code)
    if code == 127:
        return "\u2421"
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
        return f"[U+{code:04X}]"  # would turn the text around it
    if 0xD800 <= code <= 0xDFFF or 0x80 <= code < 0xA0 or code in (0xFFFE, 0xFFFF):
        return "\ufffd"
    return char


def escape(value: object) -> Markup:
    """`value` as markup; what is `Markup` already is passed through."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(visible(str(value)), quote=True))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. Attribute names: a trailing underscore is dropped (`class_`), inner ones become hyphens.

    An attribute that is None or False is left out, True is written bare; children that are None are left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    body = join(child for child in children if child is not None)
    if not body and name in SELF_CLOSED:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{body}</{name}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        value = f"{value:.1f}".removesuffix(".0")
    # An attribute is always escaped, Markup or not: markup inside quotes would be a mistake.
    return f' {name}="{html.escape(visible(str(value)), quote=True)}"'
