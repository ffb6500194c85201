"""Skills as plain text for the early stages: short question-and-answer pages, and long documents.

Task text mixed into pretraining carries fine-tuning (one-digit addition .76 with it, .12 without, on a prototype of
0.9M parameters), and it must come from the training split only, so that is the default. Long documents are for
mid-training with a longer context: what their later parts say can be known only from far back.
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal

from luopan.corpus.skills.case import Case, Split
from luopan.corpus.skills.recall import long_note, long_story
from luopan.corpus.skills.registry import generate_cases
from luopan.errors import DataError

Form = Literal["questions", "dialogue", "bare", "mixed"]
LongKind = Literal["note", "story", "mixed"]
FORMS: tuple[Form, ...] = ("questions", "dialogue", "bare")
MIN_LONG = 600


def documents(
    skill: str,
    n: int,
    seed: int,
    *,
    length: int = 400,
    form: Form = "mixed",
    split: Split = "train",
    **options: Any,
) -> list[str]:
    """`n` documents of about `length` characters, each a run of the skill's cases as plain text.

    `options` are the skill's own. A document holds at least one case, however long, and is otherwise at most `length`.
    """
    if length < 1 or n < 0:
        raise DataError(f"length is {length!r} and n is {n!r}; they must be positive", where="skill documents")
    if form != "mixed" and form not in FORMS:
        raise DataError(f"there is no form {form!r}", where="skill documents", hint=f"forms: mixed, {', '.join(FORMS)}")
    random = Random(f"documents/{skill}/{split}/{seed}")
    pages: list[str] = []
    batch, used = generate_cases(skill, max(64, 4 * n), seed, split, **options), 0
    extra = 0
    while len(pages) < n:
        chosen = random.choice(FORMS) if form == "mixed" else form
        page: list[str] = []
        size = 0
        while True:
            if used == len(batch):
                extra += 1
                batch, used = generate_cases(skill, max(64, 4 * n), seed + 1_000_003 * extra, split, **options), 0
            text = render(batch[used], chosen)
            if page and size + len(text) > length:
                break
            page.append(text)
            size += len(text) + 1
            used += 1
        pages.append("\n".join(page) + "\n")
    return pages


def render(case: Case, form: Form) -> str:
    """One case as plain text; an earlier turn becomes an earlier pair of lines."""
    labels = {"questions": ("Question", "Working", "Answer"), "dialogue": ("User", "Thinking", "Assistant")}
    user, thinking, assistant = labels.get(form, ("", "", ""))
    lines: list[str] = []
    for message in case.conversation():
        if message.get("reasoning_content"):
            lines.append(_line(thinking, message["reasoning_content"]))
        label = {"user": user, "assistant": assistant, "system": "System" if user else ""}[message["role"]]
        lines.append(_line(label, message["content"]))
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return f"{label}: {text}" if label else text


def long_documents(n: int, seed: int, *, length: int = 4000, kind: LongKind = "mixed") -> list[str]:
    """`n` documents of nearly `length` characters: notes with codes to look back for, long stories, or both."""
    makers = {"note": (long_note,), "story": (long_story,), "mixed": (long_note, long_story)}
    if kind not in makers:
        raise DataError(f"there is no kind {kind!r}", where="long documents", hint=f"kinds: {', '.join(makers)}")
    if length < MIN_LONG:
        raise DataError(
            f"length is {length!r}; a long document has at least {MIN_LONG} characters", where="long documents"
        )
    random = Random(f"long/{kind}/{seed}")
    return [random.choice(makers[kind])(random, length) + "\n" for _ in range(n)]
