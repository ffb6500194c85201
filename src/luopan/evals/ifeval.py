"""IFEval: whether a response follows instructions that a program can check (Zhou et al. 2023, arXiv:2311.07911).

All 25 types; `CHECKS` is the table. The verifier `ifeval` takes a row's `instruction_id_list` and `kwargs`, for
reinforcement learning too; `ifeval_scores` gives the benchmark's four figures over rows and responses. *Strict* looks
at the response as it is, *loose* passes what is followed by any of eight forms of it: as it is, without its first, its
last or both of these lines, each with and without stars.

Differences from lm-evaluation-harness's code, whose scores are otherwise the same: docs/evals.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from luopan.evals import ifeval_shape as shape
from luopan.evals import ifeval_words as words
from luopan.evals.arguments import mismatch
from luopan.evals.verdict import THINK_CLOSE, THINK_OPEN, Verdict, answer_of

Mode = Literal["strict", "loose"]
Level = Literal["prompt", "instruction"]

CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": words.existence,
    "keywords:frequency": words.frequency,
    "keywords:forbidden_words": words.forbidden_words,
    "keywords:letter_frequency": words.letter_frequency,
    "language:response_language": words.response_language,
    "length_constraints:number_sentences": words.number_sentences,
    "length_constraints:number_paragraphs": shape.number_paragraphs,
    "length_constraints:number_words": words.number_words,
    "length_constraints:nth_paragraph_first_word": shape.nth_paragraph_first_word,
    "detectable_content:number_placeholders": shape.number_placeholders,
    "detectable_content:postscript": shape.postscript,
    "detectable_format:number_bullet_lists": shape.number_bullet_lists,
    "detectable_format:constrained_response": shape.constrained_response,
    "detectable_format:number_highlighted_sections": shape.number_highlighted_sections,
    "detectable_format:multiple_sections": shape.multiple_sections,
    "detectable_format:json_format": shape.json_format,
    "detectable_format:title": shape.title,
    "combination:two_responses": shape.two_responses,
    "combination:repeat_prompt": shape.repeat_prompt,
    "startend:end_checker": shape.end_checker,
    "startend:quotation": shape.quotation,
    "change_case:capital_word_frequency": words.capital_word_frequency,
    "change_case:english_capital": words.english_capital,
    "change_case:english_lowercase": words.english_lowercase,
    "punctuation:no_comma": shape.no_comma,
}


def ifeval(
    text: str,
    *,
    instruction_id_list: Sequence[str],
    kwargs: Sequence[Mapping[str, Any]],
    mode: Mode = "strict",
    level: Level = "prompt",
) -> Verdict:
    """1 if all instructions of the row are followed, else 0; with `level` "instruction" the share that is.

    `parts` has each instruction's 0 or 1 by its id. The text is raw: its thinking is taken off, the rest left as it is.
    """
    if problem := row_problem(instruction_id_list, kwargs):
        return Verdict(None, problem)
    answer = answer_of(text) if THINK_OPEN in text or THINK_CLOSE in text else text
    try:
        kept = followed(answer or "", instruction_id_list, kwargs, mode)
    except ValueError as error:
        return Verdict(None, f"arguments that make no sense: {error}")
    broken = [name for name, one in zip(instruction_id_list, kept) if not one]
    score = float(not broken) if level == "prompt" else sum(kept) / len(kept)
    parts = {_part(instruction_id_list, at): float(one) for at, one in enumerate(kept)}
    reason = f"not followed: {', '.join(broken)}" if broken else ""
    return Verdict(score, "the thought never ends" if answer is None else reason, parts)


def followed(text: str, names: Sequence[str], kwargs: Sequence[Mapping[str, Any]], mode: Mode = "strict") -> list[bool]:
    """Whether each instruction is followed. ValueError for arguments that make no sense."""
    forms = [form for form in ([text] if mode == "strict" else loose_forms(text)) if form.strip()]
    return [any(CHECKS[name](form, **given(args)) for form in forms) for name, args in zip(names, kwargs)]


def loose_forms(text: str) -> list[str]:
    """The eight forms of a response that loose scoring looks at."""
    lines = text.split("\n")
    cut = [text, *("\n".join(kept).strip() for kept in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(form.replace("*", "") for form in cut)]


def given(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are set: as a table, the data set has every argument of every type, most of them None."""
    return {name: value for name, value in args.items() if value is not None}


def row_problem(names: Sequence[str], kwargs: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a row's instructions, or ""."""
    if not names or len(names) != len(kwargs):
        return f"{len(names)} instructions and {len(kwargs)} sets of arguments"
    for name, args in zip(names, kwargs):
        if name not in CHECKS:
            return f"there is no instruction {name!r}"
        if found := mismatch(CHECKS[name], given(args)):
            return f"instruction {name!r}: {found}"
    return ""


@dataclass(frozen=True)
class IfevalScores:
    """Accuracies in 0..1 over the rows that could be judged; `unjudged` counts the others."""

    prompt_strict: float
    instruction_strict: float
    prompt_loose: float
    instruction_loose: float
    n: int
    instructions: int
    unjudged: int


def ifeval_scores(rows: Sequence[Mapping[str, Any]], responses: Sequence[str]) -> IfevalScores:
    """The benchmark's figures; rows hold `instruction_id_list` and `kwargs`, the responses are raw."""
    from luopan.evals.verifiers import Job, verify_many  # which knows this module by name

    jobs = [
        Job(
            "ifeval",
            response,
            {"instruction_id_list": row["instruction_id_list"], "kwargs": row["kwargs"], "mode": mode},
        )
        for mode in ("strict", "loose")
        for row, response in zip(rows, responses, strict=True)
    ]
    verdicts = verify_many(jobs)
    pairs = [pair for pair in zip(verdicts[: len(rows)], verdicts[len(rows) :]) if pair[0].score is not None]
    pairs = [pair for pair in pairs if pair[1].score is not None]
    strict, loose = [one for one, _ in pairs], [other for _, other in pairs]
    return IfevalScores(
        prompt_strict=_mean([verdict.score or 0.0 for verdict in strict]),
        instruction_strict=_mean(_single(strict)),
        prompt_loose=_mean([verdict.score or 0.0 for verdict in loose]),
        instruction_loose=_mean(_single(loose)),
        n=len(pairs),
        instructions=len(_single(strict)),
        unjudged=len(rows) - len(pairs),
    )


def _single(verdicts: Sequence[Verdict]) -> list[float]:
    """The instructions of all rows."""
    return list(chain.from_iterable(verdict.parts.values() for verdict in verdicts))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _part(names: Sequence[str], at: int) -> str:
    """The instruction's id, numbered from the second of its kind on."""
    before = list(names[:at]).count(names[at])
    return names[at] + (f" {before + 1}" if before else "")
