"""Showing what is trained: the tokens of an example as text, the trained parts marked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerFast

from luopan.report.markup import Markup, join, tag
from luopan.report.shell import html_page
from luopan.tokens.example import IGNORE, Example

Style = Literal["plain", "ansi", "html"]

_STYLE = """
main { max-width: 62rem; margin: 0 auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .9rem 1.1rem; line-height: 1.6; color: var(--soft); }
mark { background: color-mix(in srgb, var(--good) 22%, transparent); color: var(--ink); border-radius: 3px;
  padding: .08em 0; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
header { margin-bottom: 1rem; }
section { margin-bottom: 1rem; }
h3 { overflow-wrap: anywhere; }
.fault { color: var(--bad); }
body > div { display: block; }
"""


def mask_spans(tokenizer: PreTrainedTokenizerFast, example: Example) -> list[tuple[str, bool]]:
    """`(text, trained)` stretches of an example, special tokens visible.

    A character whose bytes are part trained, part not, shows as a replacement character on each side.
    """
    runs: list[tuple[list[int], bool]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        trained = bool(label != IGNORE)
        if not runs or runs[-1][1] is not trained:
            runs.append(([], trained))
        runs[-1][0].append(int(token))
    return [(str(tokenizer.decode(ids, skip_special_tokens=False)), trained) for ids, trained in runs]


def render_mask(tokenizer: PreTrainedTokenizerFast, example: Example, style: Style = "plain") -> str:
    """The example as text: trained stretches in ⟦⟧ ("plain"), in green ("ansi") or in `<mark>` ("html", escaped)."""
    spans = mask_spans(tokenizer, example)
    if style == "html":
        return "".join(f"<mark>{html.escape(t)}</mark>" if trained else html.escape(t) for t, trained in spans)
    before, after = ("\x1b[32m", "\x1b[0m") if style == "ansi" else ("⟦", "⟧")
    return "".join(f"{before}{text}{after}" if trained else text for text, trained in spans)


def mask_page(
    tokenizer: PreTrainedTokenizerFast, shown: Sequence[tuple[str, Example]], faults: Sequence[str] = (), lead: str = ""
) -> str:
    """A page of its own with the examples under their titles, the trained parts marked, and what was refused."""
    legend = tag(
        "p", tag("mark", "Marked"), ": what the model is trained to say, with the token that ends it. The rest is what "
        "it reads.", class_="lead",
    )  # fmt: skip
    parts: list[Markup] = []
    for title, example in shown:
        text = join(tag("mark", text) if trained else text for text, trained in mask_spans(tokenizer, example))
        parts.append(tag("section", tag("h3", title), tag("pre", text, class_="card")))
    refused = tag(
        "section", tag("h3", "Rows that cannot be used"), tag("ul", *(tag("li", f, class_="fault") for f in faults))
    )
    header = tag("header", tag("h1", "What is trained"), legend, tag("p", lead, class_="muted") if lead else None)
    body = tag("body", tag("div", tag("main", header, *parts, refused if faults else None)))
    return html_page("What is trained", body, _STYLE)
