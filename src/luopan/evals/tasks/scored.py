"""Tasks that need no answer to be written: choices, last words, bits per byte.

Choices: `acc` by summed log-probability, `acc_norm` by that over the choice's characters (both as
lm-evaluation-harness has them), `acc_token` over its tokens, `acc_uncond` less what the choice has after a text that
asks nothing. Letters are all as long as each other, so only `acc` is given; likewise where only what comes before the
continuation differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from luopan.errors import DataError
from luopan.evals.bits import document_bits
from luopan.evals.likelihood import Likelihood, likelihoods
from luopan.evals.multiple_choice import first_highest
from luopan.evals.tasks.config import ChoiceTask, LastWordTask, TextTask
from luopan.evals.tasks.figures import Figure, Result
from luopan.evals.tasks.rows import Row, read_rows, text_of, value_of
from luopan.model.decoder import Decoder


@dataclass(frozen=True)
class Choices:
    """A row's pairs of context and continuation, the choices' words, and the place of the right one."""

    pairs: list[tuple[str, str]]
    words: list[str]
    right: int


def run_choice(
    task: ChoiceTask, rows: Sequence[Row], model: Decoder, tokenizer: Any, folder: Path | None = None
) -> Result:
    """Ask every row; ties go to the first."""
    before = _examples(task, folder)
    asked = [choices_of(task, row, f"{task.name}, row {at}", before) for at, row in enumerate(rows, 1)]
    names = [f"{task.name}, row {at}" for at, one in enumerate(asked, 1) for _ in one.pairs]
    found = likelihoods(model, tokenizer, list(chain.from_iterable(one.pairs for one in asked)), names)
    bare: list[Likelihood] = []
    if task.unconditional is not None:
        empty = [(task.unconditional, continuation) for one in asked for _, continuation in one.pairs]
        bare = likelihoods(model, tokenizer, empty, names)
    scores: dict[str, list[float | None]] = {}
    shown, cut, at = [], 0, 0
    for number, one in enumerate(asked):
        here = slice(at, at + len(one.pairs))
        at = here.stop
        chosen = decide(task, one, found[here], bare[here])
        for name, place in chosen.items():
            scores.setdefault(name, []).append(float(place == one.right))
        cut += any(likelihood.cut for likelihood in found[here])
        logprobs = [likelihood.logprob for likelihood in found[here]]
        shown.append({"row": number, "choices": one.words, "right": one.right, "chosen": chosen, "logprobs": logprobs})
    chance = task.chance if task.chance is not None else sum(1 / len(one.pairs) for one in asked) / len(asked)
    figures = {name: Figure(tuple(values), chance=chance) for name, values in scores.items()}
    main = task.main or ("acc_norm" if "acc_norm" in figures else "acc")
    return Result(task.name, _known(main, figures), figures, shown, {"contexts cut": cut} if cut else {})


def decide(
    task: ChoiceTask, asked: Choices, found: Sequence[Likelihood], bare: Sequence[Likelihood] = ()
) -> dict[str, int]:
    """The choice that comes first by each way of counting."""
    logprobs = [one.logprob for one in found]
    chosen = {"acc": first_highest(logprobs)}
    if task.form == "cloze" and not task.prompts:
        chosen["acc_norm"] = first_highest([value / len(word) for value, word in zip(logprobs, asked.words)])
        chosen["acc_token"] = first_highest([one.logprob / one.tokens for one in found])
    if bare:
        chosen["acc_uncond"] = first_highest([value - one.logprob for value, one in zip(logprobs, bare)])
    return chosen


def choices_of(task: ChoiceTask, row: Row, where: str, before: str = "") -> Choices:
    """What a row asks. DataError where it cannot be asked."""
    told = value_of(task.prompts or task.choices, row, where)
    words = [str(one) for one in told] if isinstance(told, list | tuple) else []
    if len(words) < 2 or not all(words):
        raise DataError(f"there must be two choices or more, and none empty; here are {told!r}", where=where)
    if len(words) > len(ascii_uppercase) and task.form == "letter":
        raise DataError(f"{len(words)} choices are more than there are letters", where=where)
    letters = ascii_uppercase[: len(words)]
    right = _place(value_of(task.answer, row, where), words, where)
    if task.prompts:
        end = task.delimiter + text_of(task.continuation, row, where)
        return Choices([(word, end) for word in words], words, right)
    lettered = "\n".join(f"{letter}. {word}" for letter, word in zip(letters, words))
    prompt = before + text_of(task.prompt, row, where, lettered=lettered)
    said = list(letters) if task.form == "letter" else words
    return Choices([(prompt, task.delimiter + one) for one in said], words, right)


def _place(answer: Any, words: Sequence[str], where: str) -> int:
    """The place of the right choice, which a row may name by its number, its letter or its words."""
    if isinstance(answer, str):
        if answer in words:
            return words.index(answer)
        if answer.strip().isdigit():
            answer = int(answer)
        elif len(answer.strip()) == 1 and answer.strip().upper() in ascii_uppercase:
            answer = ascii_uppercase.index(answer.strip().upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(words):
        raise DataError(f"answer is {answer!r}, the choices are 0 to {len(words) - 1}", where=where)
    return answer


def _examples(task: ChoiceTask, folder: Path | None) -> str:
    """The solved questions before each."""
    if task.examples is None:
        return ""
    shown = []
    for at, row in enumerate(read_rows(task.examples.data, folder, task.examples.shots), 1):
        one = choices_of(task, row, f"{task.name}, example {at}")
        shown.append("".join(one.pairs[one.right]) + task.examples.separator)
    return "".join(shown)


def run_last_word(task: LastWordTask, rows: Sequence[Row], model: Decoder, tokenizer: Any) -> Result:
    """`acc`: greedy decoding would say it; `loss`: nats of the whole continuation (its exp is LAMBADA's perplexity)."""
    pairs = [
        (text_of(task.prompt, row, where), task.delimiter + text_of(task.continuation, row, where))
        for where, row in ((f"{task.name}, row {at}", row) for at, row in enumerate(rows, 1))
    ]
    found = likelihoods(model, tokenizer, pairs, [f"{task.name}, row {at}" for at in range(1, len(rows) + 1)])
    figures = {
        "acc": Figure(tuple(float(one.greedy) for one in found), chance=task.chance),
        "loss": Figure(tuple(-one.logprob for one in found), higher_is_better=False),
    }
    shown = [
        {"row": at, "expected": pair[1], "logprob": one.logprob, "right": one.greedy}
        for at, (pair, one) in enumerate(zip(pairs, found))
    ]
    notes: dict[str, float] = {"perplexity": math.exp(min(700.0, figures["loss"].value or 0.0))}
    if cut := sum(one.cut for one in found):
        notes["contexts cut"] = cut
    return Result(task.name, _known(task.main or "acc", figures), figures, shown, notes)


def run_text(task: TextTask, rows: Sequence[Row], model: Decoder, tokenizer: Any) -> Result:
    """`bits_per_byte` over all bytes of all rows."""
    texts = [text_of(task.text, row, f"{task.name}, row {at}") for at, row in enumerate(rows, 1)]
    found = list(document_bits(model, tokenizer, texts, length=task.window))
    if not any(one.tokens for one in found):
        raise DataError("there is no text to measure on", where=task.name, hint="A text needs at least two tokens.")
    bits = tuple(one.nats / math.log(2) if one.documents else None for one in found)
    figures = {
        "bits_per_byte": Figure(bits, tuple(float(one.bytes) for one in found), task.chance, higher_is_better=False)
    }
    shown = [{"row": at, "bits": value, "bytes": one.bytes} for at, (value, one) in enumerate(zip(bits, found))]
    tokens = sum(one.tokens for one in found)
    notes = {"bytes per token": sum(one.bytes for one in found) / tokens}
    return Result(task.name, _known(task.main or "bits_per_byte", figures), figures, shown, notes)


def _known(main: str, figures: dict[str, Figure]) -> str:
    if main not in figures:
        raise DataError(f"main is {main!r}, the figures are {', '.join(figures)}")
    return main
