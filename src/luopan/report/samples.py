"""The same prompts answered by each model, side by side. Thinking is dimmed and can be folded away."""

from __future__ import annotations

from collections.abc import Sequence

from luopan.report.data import Answer, Message, Sample
from luopan.report.markup import Markup, join, tag

TEXT_LIMIT = 3000  # characters of one answer; a runaway answer would swell the page
OPEN_THINKING = 400  # longer thinking starts folded
SHOWN_PER_GROUP = 4


def samples(items: Sequence[Sample]) -> Markup | None:
    """Cards by group, in the order given; beyond the first few of a group behind a fold."""
    if not items:
        return None
    groups: dict[str, list[Sample]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    parts = []
    for name, group in groups.items():
        shown = [sample_card(sample) for sample in group[:SHOWN_PER_GROUP]]
        more = group[SHOWN_PER_GROUP:]
        fold = tag("details", tag("summary", f"{len(more)} more"), *(sample_card(s) for s in more)) if more else None
        parts.append(tag("div", tag("h3", name) if name else None, *shown, fold, class_="samples"))
    return join(parts)


def sample_card(sample: Sample) -> Markup:
    chips = []
    if sample.thinking is not None:
        chips.append(tag("span", "thinking on" if sample.thinking else "thinking off", class_="chip"))
    if sample.expected is not None:
        chips.append(tag("span", f"expected: {cut(sample.expected, 120)}", class_="chip"))
    head = tag("p", tag("strong", sample.title) if sample.title else None, *chips, class_="sample-head")
    prompt = tag("div", *(_message(message) for message in sample.messages), class_="prompt")
    answers = [_answer(name, answer) for name, answer in sample.answers.items()]
    return tag(
        "article",
        head if sample.title or chips else None,
        prompt,
        tag("div", *answers, class_="answers"),
        class_="card sample",
    )


def _message(message: Message) -> Markup:
    return tag(
        "div",
        tag("span", message.role, class_="role"),
        tag("div", cut(message.content), class_="said", dir="auto"),
        class_="message",
    )


def _answer(name: str, answer: Answer) -> Markup:
    marks: list[Markup] = []
    if answer.correct is not None:
        marks.append(
            tag("span", "✓ right" if answer.correct else "✗ wrong", class_="good" if answer.correct else "bad")
        )
    if answer.finish_reason == "length":
        marks.append(
            tag("span", "✂ did not stop", class_="bad", title="it reached the limit of tokens without ending its turn")
        )
    if answer.tokens is not None:
        marks.append(tag("span", f"{answer.tokens:,} tokens", class_="muted"))
    thinking = None
    if answer.thinking:
        fold = None if len(answer.thinking) > OPEN_THINKING else True
        inner = [tag("summary", "thinking"), tag("div", cut(answer.thinking), class_="said", dir="auto")]
        thinking = tag("details", *inner, class_="think", open=fold)
    said = (
        tag("div", cut(answer.text), class_="said", dir="auto")
        if answer.text.strip()
        else tag("p", "(empty)", class_="muted")
    )
    return tag("div", tag("p", tag("b", name), *marks, class_="who"), thinking, said, class_="answer")


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"
