"""Answers to learn a preference from: read or made, split by prompt, encoded, packed into rows.

A pair, or an answer with its label, is used whole or set aside with its place: an answer that is cut off has nothing
left to learn, and half a pair compares nothing. About `test_pairs` of the user's are held out by a hash of the prompt,
so that no prompt is on both sides. The same pair, or the same answer with the same label, is used once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from luopan.artifacts import stable_hash
from luopan.corpus.skills import generate_pairs
from luopan.errors import DataError
from luopan.recipe.parts import RowSource
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.stages.held_out import held_prompts
from luopan.stages.measure import SUITE_SEED
from luopan.stages.rows import read_source
from luopan.tokens.chat import Conversation, TrainOn, encode_chats, encode_prompts
from luopan.tokens.convert import convert
from luopan.tokens.example import IGNORE, Example, share_prefix
from luopan.tokens.formats import Extras, PairRow, UnpairedRow, recognise
from luopan.tokens.packing import best_fit_decreasing

Rows = list[list[Example]]
Aside = list[tuple[str, str]]
AnswerRow = TypeVar("AnswerRow", PairRow, UnpairedRow)


@dataclass(frozen=True)
class Answer:
    """A prompt with one answer as tokens, the answer trained; `prompt` is how many tokens come before it."""

    example: Example
    prompt: int

    @property
    def asked(self) -> list[int]:
        """The prompt's tokens."""
        return list(self.example.input_ids[: self.prompt])

    def with_fields(self, fields: dict[str, float]) -> Answer:
        """The same with these fields on its document."""
        return replace(self, example=replace(self.example, fields=fields)) if fields else self


EncodedPair = tuple[Answer, Answer]


def load_pairs(
    sources: Sequence[RowSource],
    pairs: int | None,
    flaw: str,
    test_pairs: int,
    seed: int,
    aside: Aside,
    said: list[str],
) -> tuple[list[PairRow], list[PairRow]]:
    """Training and held-out pairs, procedural or the user's. How each source was read is added to `said`."""
    if not sources:
        assert pairs is not None
        drawn = [
            generate_pairs(pairs, seed, "train", flaw=flaw),
            generate_pairs(test_pairs, SUITE_SEED, "test", flaw=flaw),
        ]
        train, test = (
            [PairRow(list(p), [dict(c)], [dict(r)], Extras(f"pair #{i}")) for i, (p, c, r) in enumerate(some)]
            for some in drawn
        )
        return train, test
    found = [row for row in read_answers(sources, aside, said) if isinstance(row, PairRow)]
    return held_out(found, test_pairs, sources[0].name, aside)


def load_unpaired(
    spec: PreferenceSpec, seed: int, aside: Aside, said: list[str]
) -> tuple[list[UnpairedRow], list[UnpairedRow]]:
    """Training and held-out answers with a label; a pair is a good answer and a bad one."""
    if not spec.data:
        sides = load_pairs((), spec.pairs, spec.flaw, spec.test_pairs, seed, aside, said)
        train, test = ([half for pair in side for half in halves(pair)] for side in sides)
        return train, test
    found: list[UnpairedRow] = []
    for row in read_answers(spec.data, aside, said, unpaired=True):
        found += halves(row) if isinstance(row, PairRow) else [row]
    labels = {row.label for row in found}
    if len(labels) == 1:
        raise DataError(
            f"all answers are {'desirable' if labels == {True} else 'undesirable'}, so there is nothing to tell apart",
            where=spec.data[0].name,
        )
    return held_out(found, spec.test_pairs, spec.data[0].name, aside)


def halves(pair: PairRow) -> list[UnpairedRow]:
    """A pair as two answers with a label."""
    return [
        UnpairedRow(pair.prompt, pair.chosen, True, pair.extras),
        UnpairedRow(pair.prompt, pair.rejected, False, pair.extras),
    ]


def read_answers(
    sources: Sequence[RowSource], aside: Aside, said: list[str], *, unpaired: bool = False
) -> Iterable[PairRow | UnpairedRow]:
    """The rows of all sources, each once; what does not fit is set aside. DataError for a source of another kind."""
    seen: dict[str, str] = {}  # what a row says -> where it was said first
    for source in sources:
        rows = list(read_source(source))
        aside += [(row.where, row.fault) for row in rows if row.values is None]
        sound = [row for row in rows if row.values is not None]
        if not sound:
            continue
        form = recognise([row.values or {} for row in sound], source.name, source.format)
        if form.kind != "pairs" and not (unpaired and form.kind == "unpaired"):
            wanted = "answers with a label, or chosen and rejected ones" if unpaired else "chosen and rejected answers"
            hint = "Answers with a label are learnt from with loss_type kto." if form.kind == "unpaired" else None
            raise DataError(f"holds {form.name} data; wanted are {wanted}", where=source.name, hint=hint)
        said.append(f"{form.sentence(Path(source.name).name)}; {len(rows):,} rows")
        for row in sound:
            found = convert(row.values or {}, form, row.where)
            if isinstance(found, PairRow | UnpairedRow):
                first = seen.setdefault(_said(found), row.where)
                if first == row.where:
                    yield found
                else:
                    aside.append((row.where, f"is said already in {first}"))
            else:
                aside.append((row.where, found if isinstance(found, str) else "is of another kind"))


def _said(row: PairRow | UnpairedRow) -> str:
    """A hash over what a row says, wherever it stands."""
    answers = [row.chosen, row.rejected] if isinstance(row, PairRow) else [row.completion, row.label]
    extras = row.extras
    return stable_hash([row.prompt, answers, extras.enable_thinking, extras.tools, extras.arguments])


def held_out(rows: Sequence[AnswerRow], test: int, where: str, aside: Aside) -> tuple[list[AnswerRow], list[AnswerRow]]:
    """Training and held-out rows: about `test`, at most a fifth, and no prompt on both sides."""
    prompts = [stable_hash(row.prompt) for row in rows]
    held = held_prompts(prompts, test)
    if not held:
        first = f"; the first that was set aside: {aside[0][0]}: {aside[0][1]}" if aside else ""
        what = "all have one prompt" if len(rows) > 1 else "are too few to train on"
        raise DataError(f"{len(rows)} pairs {what}, so none can be held out{first}", where=where)
    train = [row for row, prompt in zip(rows, prompts) if prompt not in held]
    return train, [row for row, prompt in zip(rows, prompts) if prompt in held]


# ---- tokens ----


def encode_answers(
    tokenizer: Any, rows: Sequence[tuple[list[dict[str, Any]], list[dict[str, Any]], Extras]], max_length: int
) -> dict[int, Answer | str]:
    """Each (prompt, answer, extras) as tokens, or its fault. All assistant turns of the answer are trained."""
    talks = [
        Conversation([*prompt, *answer], bool(extras.enable_thinking), extras.tools, extras.where, extras.arguments)
        for prompt, answer, extras in rows
    ]
    found: dict[int, Answer | str] = {}
    ways: tuple[tuple[TrainOn, bool], ...] = (("last_turn", True), ("assistant", False))
    for train_on, single in ways:
        numbers = [i for i, (_, answer, _) in enumerate(rows) if (len(answer) == 1) is single]
        if not numbers:
            continue
        encoded = encode_chats(tokenizer, [talks[i] for i in numbers], max_length=max_length, train_on=train_on)
        found |= {numbers[item.index]: item.reason for item in encoded.set_aside}
        kept = [numbers[place] for place in encoded.kept]
        prompts = encode_prompts(tokenizer, [replace(talks[i], messages=rows[i][0]) for i in kept], keep_thinking=True)
        for i, example, prompt in zip(kept, encoded.examples, prompts, strict=True):
            if list(example.input_ids[: len(prompt)]) != prompt:
                found[i] = "the prompt of inference is not what the chat template puts before the answer in training"
                continue
            labels = [IGNORE] * len(prompt) + list(example.labels[len(prompt) :])
            found[i] = Answer(replace(example, labels=labels), len(prompt))
    return found


def encode_pairs(tokenizer: Any, pairs: Sequence[PairRow], max_length: int, aside: Aside) -> list[EncodedPair]:
    """Both answers of each pair; one that does not fit takes the other with it. DataError where none is left.

    Where any pair has a margin, all carry one (0 if they do not say).
    """
    margins = any(pair.margin is not None for pair in pairs)
    sides = [
        encode_answers(tokenizer, [(pair.prompt, getattr(pair, side), pair.extras) for pair in pairs], max_length)
        for side in ("chosen", "rejected")
    ]
    both: list[EncodedPair] = []
    for i, pair in enumerate(pairs):
        chosen, rejected = sides[0][i], sides[1][i]
        if isinstance(chosen, Answer) and isinstance(rejected, Answer):
            if list(chosen.example.input_ids) == list(rejected.example.input_ids):
                aside.append((pair.extras.where, "both answers are the same tokens"))
                continue
            fields = {"margin": pair.margin or 0.0} if margins else {}
            both.append((chosen.with_fields(fields), rejected.with_fields(fields)))
        else:
            side, reason = ("chosen", chosen) if isinstance(chosen, str) else ("rejected", rejected)
            aside.append((pair.extras.where, f"{side}: {reason}"))
    if not both:
        where, reason = aside[0]
        raise DataError(f"no preference pair is left; the first was set aside: {reason}", where=where)
    return both


def encode_labelled(
    tokenizer: Any, rows: Sequence[UnpairedRow], max_length: int, aside: Aside
) -> list[tuple[Answer, bool]]:
    """Each answer with its label. DataError where none is left."""
    found = encode_answers(tokenizer, [(row.prompt, row.completion, row.extras) for row in rows], max_length)
    kept: list[tuple[Answer, bool]] = []
    for i, row in enumerate(rows):
        answer = found[i]
        if isinstance(answer, Answer):
            kept.append((answer, row.label))
        else:
            aside.append((row.extras.where, answer))
    if not kept:
        where, reason = aside[0]
        raise DataError(f"no answer is left; the first was set aside: {reason}", where=where)
    return kept


# ---- rows ----


def pair_rows(pairs: Sequence[EncodedPair], capacity: int, *, share: bool) -> Rows:
    """Packed rows of whole pairs, with their numbers in the row; `share`: the prompt stands once."""
    documents = [[chosen.example, rejected.example] for chosen, rejected in pairs]
    if share:
        documents = [share_prefix(both) for both in documents]
    bins = best_fit_decreasing([sum(map(len, both)) for both in documents], capacity)
    return [
        [
            replace(doc, fields={**doc.fields, "pair": number, "is_chosen": side == 0})
            for number, i in enumerate(chosen)
            for side, doc in enumerate(documents[i])
        ]
        for chosen in bins
    ]


def labelled_rows(answers: Sequence[tuple[Answer, bool]], capacity: int, longest: int, *, share: bool) -> Rows:
    """Packed rows of answers with their labels, and each prompt once more with an answer to another prompt of the row.

    The latter are what the KL is estimated from (`objectives.kto`); one longer than `longest` is left out. Every row
    has the same set of answers on both sides, moved on by as many places as let the fewest meet their own prompt (the
    halves of a pair are of about one length, and so neighbours); a prompt that would get an answer to itself gets none.
    """
    # A row holds every answer twice: under its own prompt and under another's.
    bins = best_fit_decreasing([2 * len(answer.example) for answer, _ in answers], capacity)
    rows: Rows = []
    for numbers in bins:
        row: list[Example] = []
        step = _shift([answers[number][0] for number in numbers])
        for place, number in enumerate(numbers):
            answer, label = answers[number]
            other = answers[numbers[(place + step) % len(numbers)]][0]
            own = replace(answer.example, fields={"label": label, "mismatched": False})
            documents = [own]
            mixed = mismatched(answer, other)
            if answer.asked != other.asked and len(mixed) <= longest:
                documents.append(mixed)
            row += share_prefix(documents) if share else documents
        rows.append(row)
    return rows


def _shift(answers: Sequence[Answer]) -> int:
    """The smallest step by which the answers of a row are to be moved on so that the fewest meet their own prompt."""
    asked = [answer.asked for answer in answers]

    def met(step: int) -> int:
        return sum(mine == asked[(place + step) % len(asked)] for place, mine in enumerate(asked))

    return min(range(1, max(2, len(asked))), key=met)


def mismatched(one: Answer, other: Answer) -> Example:
    """The prompt of one answer with the other's answer."""
    prompt, answer = one.asked, other.example
    ids = prompt + list(answer.input_ids[other.prompt :])
    labels = [IGNORE] * len(prompt) + list(answer.labels[other.prompt :])
    return Example(ids, labels, fields={"label": False, "mismatched": True})
