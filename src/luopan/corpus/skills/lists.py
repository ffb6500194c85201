"""Skills over short lists: counting, sorting, copying, the first or last item.

Counting thinks by walking the list with a running count (`pear 0, apple 1, fig 1, apple 2`), so that each step needs
only the item and the number before it; the answers are drawn evenly, because "always 1" is a good guess otherwise.
Sorting thinks by taking the smallest away from what is left (`7 3 9: 3, 7 9: 7, 9: 9`).

Honest limit: without thinking a model of a million parameters hardly counts at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from luopan.corpus.skills.arithmetic import number_with_digits
from luopan.corpus.skills.case import Draft, Skill, Split, check_share
from luopan.corpus.skills.words import words

COUNTING = (
    "How many times does {word} occur in: {items}?",
    "How often does {word} occur in: {items}?",
    "Count {word} in this list: {items}.",
    "How many times is {word} in the list {items}?",
    "In the list {items}, how many times is {word}?",
    "Count how often you see {word}: {items}.",
)
RISING = (
    "Sort these numbers: {items}",
    "Sort from small to large: {items}",
    "Put these numbers in order: {items}",
    "Please sort {items}.",
    "Order these numbers: {items}",
)
FALLING = (
    "Sort from large to small: {items}",
    "Put these numbers in falling order: {items}",
    "Sort these numbers, largest first: {items}",
)
COPYING = (
    "Repeat: {items}",
    "Say this: {items}",
    "Copy this: {items}",
    "Please repeat: {items}",
    "Write this again: {items}",
    "Repeat after me: {items}",
)
LAST = (
    "What is the last word of: {items}?",
    "Which word is last: {items}?",
    "What is the last item in this list: {items}?",
    "Tell me the last word: {items}.",
    "Name the last of these: {items}.",
)
FIRST = (
    "What is the first word of: {items}?",
    "Which word is first: {items}?",
    "What is the first item in this list: {items}?",
    "Tell me the first word: {items}.",
    "Name the first of these: {items}.",
)


def _check_lengths(lengths: tuple[int, ...], least: int, most: int) -> None:
    if not lengths or not all(isinstance(length, int) and least <= length <= most for length in lengths):
        raise ValueError(f"lengths is {lengths!r}; they lie between {least} and {most}")


@dataclass(frozen=True)
class CountingOptions:
    """`lengths` of the list; the count is drawn evenly from 0..`max_count`, whatever the length."""

    lengths: tuple[int, ...] = (4, 5, 6, 7)
    max_count: int = 4
    thinking: float = 0.7

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        _check_lengths(self.lengths, 1, 30)
        if not 1 <= self.max_count <= min(self.lengths):
            raise ValueError(f"max_count is {self.max_count!r}; the shortest list must hold that many")


@dataclass(frozen=True)
class SortingOptions:
    """Distinct numbers of `digits` digits; `falling` is the share of largest-first questions."""

    lengths: tuple[int, ...] = (3, 4)
    digits: tuple[int, ...] = (1, 2)
    falling: float = 0.0
    thinking: float = 0.5

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        check_share("falling", self.falling)
        _check_lengths(self.lengths, 2, 8)
        if not self.digits or not all(1 <= count <= 4 for count in self.digits):
            raise ValueError(f"digits is {self.digits!r}; they lie between 1 and 4")


@dataclass(frozen=True)
class ItemOptions:
    """`lengths` of the list of words. There is nothing to think about, so these cases never think."""

    lengths: tuple[int, ...] = (2, 3, 4, 5)
    thinking: float = 0.0

    def __post_init__(self) -> None:
        _check_lengths(self.lengths, 1, 30)
        if self.thinking:
            raise ValueError("this skill has no thinking form; leave thinking out")


def draw_counting(random: Random, options: CountingOptions, split: Split) -> Draft:
    length = random.choice(options.lengths)
    count = random.randint(0, options.max_count)
    word, *others = random.sample(words("items"), 4)
    items = [word] * count + random.choices(others, k=length - count)
    random.shuffle(items)
    walked, seen = [], 0
    for item in items:
        seen += item == word
        walked.append(f"{item} {seen}")
    return Draft(
        user=random.choice(COUNTING).format(word=word, items=", ".join(items)),
        answer=str(count),
        verifier="number",
        verifier_args={"answer": count},
        key=f"{word}:{','.join(items)}",
        thinking=", ".join(walked),
        variant=f"{length} items",
    )


def draw_sorting(random: Random, options: SortingOptions, split: Split) -> Draft:
    length, digits = random.choice(options.lengths), random.choice(options.digits)
    numbers: list[int] = []
    while len(numbers) < length:
        number = number_with_digits(random, digits)
        if number not in numbers:
            numbers.append(number)
    falling = random.random() < options.falling
    left, steps = list(numbers), []
    while left:
        taken = max(left) if falling else min(left)
        steps.append(f"{' '.join(map(str, left))}: {taken}")
        left.remove(taken)
    answer = " ".join(map(str, sorted(numbers, reverse=falling)))
    return Draft(
        user=random.choice(FALLING if falling else RISING).format(items=", ".join(map(str, numbers))),
        answer=answer,
        verifier="items",
        verifier_args={"answer": answer},
        key=" ".join(map(str, numbers)),
        thinking=", ".join(steps),
        variant=f"{length} of {digits} digit{'s' if digits > 1 else ''}",
    )


def draw_copying(random: Random, options: ItemOptions, split: Split) -> Draft:
    items = random.sample(words("items"), random.choice(options.lengths))
    answer = " ".join(items)
    return Draft(
        user=random.choice(COPYING).format(items=answer),
        answer=answer,
        verifier="items",
        verifier_args={"answer": answer},
        key=answer,
        variant=f"{len(items)} words",
    )


def draw_last_item(random: Random, options: ItemOptions, split: Split) -> Draft:
    items = random.sample(words("items"), random.choice(options.lengths))
    last = random.random() < 0.5
    answer = items[-1] if last else items[0]
    return Draft(
        user=random.choice(LAST if last else FIRST).format(items=", ".join(items)),
        answer=answer,
        verifier="exact",
        verifier_args={"answer": answer},
        key=" ".join(items),
        variant="last" if last else "first",
    )


SKILLS = (
    Skill("counting", draw_counting, CountingOptions),
    Skill("sorting", draw_sorting, SortingOptions),
    Skill("copying", draw_copying, ItemOptions),
    Skill("last_item", draw_last_item, ItemOptions),
)
