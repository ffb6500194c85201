"""Showing what is trained: the tokens of an example as text, the trained parts marked."""

from __future__ import annotations

import html
from typing import Literal

from transformers import PreTrainedTokenizerFast

from luopan.tokens.example import IGNORE, Example

Style = Literal["plain", "ansi", "html"]


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
