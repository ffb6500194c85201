"""What every page of ours is wrapped in: one file, no scripts, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from importlib.resources import files

from luopan.report.markup import Markup, tag

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
FAVICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 48 48'%3E"
    "%3Ccircle cx='24' cy='24' r='21' fill='none' stroke='%230b6e8a' stroke-width='4'/%3E"
    "%3Cpath d='M24 9l6 15H18z' fill='%23c2541d'/%3E%3Cpath d='M24 39l6-15H18z' fill='%230b6e8a'/%3E%3C/svg%3E"
)


def html_page(title: str, body: Markup, style: str = "") -> str:
    """A whole document around `body`, with the report's style and what `style` adds to it."""
    css = files("luopan.report").joinpath("style.css").read_text(encoding="utf-8") + style
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href=FAVICON),
        tag("style", Markup(css)),
    )
    return "<!doctype html>\n" + tag("html", head, "\n", body, lang="en") + "\n"
