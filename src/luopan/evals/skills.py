"""Run skill cases through a model and grade the answers: accuracy, stop rate, thinking format, length, transcripts.

The model comes in as a function from prompts (lists of token ids) to completions, or as a `luopan.generate` Engine, so
this module decodes nothing itself. Figures come per skill, and per variant and thinking mode below that, each with
its standard error and the number of cases; rows that no rule could score are left out and counted.

Limits: the standard error is over cases, not over training seeds, and a partial score (reasoning_gym) counts as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any, Protocol

from luopan.corpus.skills.case import Case
from luopan.errors import LuopanError
from luopan.evals.verifiers import Verdict, grade, thinking_format


class Completion(Protocol):
    """What comes back for one prompt; as in `luopan.generate.engine`."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def finish_reason(self) -> str: ...


Generate = Callable[[Sequence[Sequence[int]]], Sequence[Completion]]
Encode = Callable[[Sequence[Case]], Sequence[Sequence[int]]]


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True)
class Transcript:
    """One graded answer as a reader wants to see it."""

    skill: str
    variant: str
    enable_thinking: bool
    messages: tuple[Mapping[str, str], ...]
    expected: str
    answer: str
    score: float | None
    reason: str
    finish_reason: str


@dataclass(frozen=True)
class SkillScore:
    """Figures over one group of cases; rates are in 0..1, None where the group has nothing to count.

    `accuracy` is over the `scored` cases and `stderr` its standard error; `think_on` and `think_off` are the rates of
    well-formed answers in either mode; `parts` are mean scores of parts (a persona's style and content).
    """

    n: int
    scored: int
    accuracy: float | None
    stderr: float | None
    stop_rate: float | None
    mean_tokens: float | None
    think_on: float | None
    think_off: float | None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def unscored(self) -> int:
        return self.n - self.scored


@dataclass(frozen=True)
class SkillReport:
    """`total` over all cases, `skills` by name, `details` by "skill/variant/think" (or "/direct"); some transcripts."""

    total: SkillScore
    skills: dict[str, SkillScore]
    details: dict[str, SkillScore]
    good: tuple[Transcript, ...] = ()
    bad: tuple[Transcript, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a .json file."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """The headline figures in one flat mapping: `addition`, `addition/stderr`, `stop_rate`, `think_on`, ..."""
        flat: dict[str, float | None] = {
            "stop_rate": self.total.stop_rate,
            "think_on": self.total.think_on,
            "think_off": self.total.think_off,
        }
        for name, score in self.skills.items():
            flat |= {name: score.accuracy, f"{name}/stderr": score.stderr, f"{name}/n": score.n}
            flat |= {f"{name}/{part}": value for part, value in score.parts.items()}
        return {key: float(value) for key, value in flat.items() if value is not None}

    def to_markdown(self) -> str:
        """A table of all skills."""
        head = "| skill | n | accuracy | stop rate | tokens | thinks when on | silent when off |"
        lines = [head, "|---|---|---|---|---|---|---|"]
        for name, score in {**self.skills, "all": self.total}.items():
            cells = (score.stop_rate, score.mean_tokens, score.think_on, score.think_off)
            shown = " | ".join("" if cell is None else f"{cell:.3g}" for cell in cells)
            lines.append(f"| {name} | {score.n} | {_accuracy(score)} | {shown} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Row:
    case: Case
    verdict: Verdict
    text: str
    tokens: int
    stopped: bool
    well_formed: bool


def run_cases(
    generate: Generate | Any,
    tokenizer: Decoder,
    cases: Sequence[Case],
    *,
    params: Any = None,
    seed: int = 0,
    encode: Encode | None = None,
    keep: int = 3,
) -> SkillReport:
    """Sample one answer per case and grade it.

    `generate` maps prompts to completions in the same order, or is an Engine, which is called with `params`
    (`SamplingParams`) and `seed`. `encode` turns cases into prompts; by default `luopan.tokens.chat.encode_prompts`.
    `keep` is how many good and how many bad transcripts of each skill are kept.
    """
    if not cases:
        raise LuopanError("there are no cases to run", where="skill evaluation")
    encode = encode or _chat_prompts(tokenizer)
    prompts = encode(cases)
    completions = _generator(generate, params, seed)(prompts)
    if len(completions) != len(cases):
        raise LuopanError(f"{len(cases)} prompts gave {len(completions)} completions", where="skill evaluation")
    rows = [_grade_row(tokenizer, *each) for each in zip(cases, prompts, completions, strict=True)]
    return summarise(rows, keep)


def summarise(rows: Sequence[_Row], keep: int) -> SkillReport:
    skills: dict[str, list[_Row]] = {}
    details: dict[str, list[_Row]] = {}
    for row in rows:
        mode = "think" if row.case.enable_thinking else "direct"
        skills.setdefault(row.case.skill, []).append(row)
        details.setdefault(f"{row.case.skill}/{row.case.variant or 'all'}/{mode}", []).append(row)
    good, bad = [], []
    for group in skills.values():
        good += [_transcript(row) for row in group if row.verdict.passed][:keep]
        bad += [_transcript(row) for row in group if not row.verdict.passed][:keep]
    return SkillReport(
        total=_score(rows),
        skills={name: _score(group) for name, group in skills.items()},
        details={name: _score(group) for name, group in sorted(details.items())},
        good=tuple(good),
        bad=tuple(bad),
    )


def _score(rows: Sequence[_Row]) -> SkillScore:
    scores = [row.verdict.score for row in rows if row.verdict.score is not None]
    accuracy = _mean(scores)
    parts: dict[str, list[float]] = {}
    for row in rows:
        for part, value in row.verdict.parts.items():
            parts.setdefault(part, []).append(value)
    return SkillScore(
        n=len(rows),
        scored=len(scores),
        accuracy=accuracy,
        stderr=standard_error(scores),
        stop_rate=_mean([float(row.stopped) for row in rows]),
        mean_tokens=_mean([float(row.tokens) for row in rows]),
        think_on=_mean([float(row.well_formed) for row in rows if row.case.enable_thinking]),
        think_off=_mean([float(row.well_formed) for row in rows if not row.case.enable_thinking]),
        parts={part: sum(values) / len(values) for part, values in parts.items()},
    )


def standard_error(scores: Sequence[float]) -> float | None:
    """Sample standard deviation (Bessel) over the square root of n; None below two scores.

    For 0/1 scores this is sqrt(p (1 - p) / (n - 1)).
    """
    n = len(scores)
    if n < 2:
        return None
    mean = sum(scores) / n
    return sqrt(sum((score - mean) ** 2 for score in scores) / (n - 1) / n)


def _mean(values: Iterable[float]) -> float | None:
    collected = list(values)
    return sum(collected) / len(collected) if collected else None


def _grade_row(tokenizer: Decoder, case: Case, prompt: Sequence[int], completion: Completion) -> _Row:
    text = _text(tokenizer, completion.tokens, prompt)
    stopped = completion.finish_reason == "stop"
    formed = thinking_format(text, enable_thinking=case.enable_thinking).passed
    return _Row(case, grade(case, text), text, len(completion.tokens), stopped, formed)


def _transcript(row: _Row) -> Transcript:
    case, verdict = row.case, row.verdict
    finish = "stop" if row.stopped else "length"
    where = (case.skill, case.variant, case.enable_thinking, case.messages)
    return Transcript(*where, case.answer, row.text, verdict.score, verdict.reason, finish)


def _accuracy(score: SkillScore) -> str:
    if score.accuracy is None:
        return "not scored"
    spread = "" if score.stderr is None else f" ± {score.stderr:.3f}"
    return f"{score.accuracy:.3f}{spread}" + (f" ({score.unscored} not scored)" if score.unscored else "")


def _generator(generate: Generate | Any, params: Any, seed: int) -> Generate:
    engine = getattr(generate, "generate", None)
    if engine is None:
        return generate
    if params is None:
        raise LuopanError("an engine needs sampling parameters", where="skill evaluation", hint="pass params=")
    return lambda prompts: engine(prompts, params, seed=seed)


def _text(tokenizer: Any, tokens: Sequence[int], prompt: Sequence[int]) -> str:
    """The reply with its thinking between `<think>` and `</think>`, whatever the template writes."""
    if not hasattr(tokenizer, "chat_template"):
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    from luopan.generate.replies import reply_text  # imports transformers: only when it is needed

    return reply_text(tokenizer, tokens, prompt)


def _chat_prompts(tokenizer: Any) -> Encode:
    from luopan.tokens.chat import Conversation, encode_prompts  # imports transformers: only when it is needed

    def encode(cases: Sequence[Case]) -> Sequence[Sequence[int]]:
        return encode_prompts(tokenizer, [Conversation(case.messages, case.enable_thinking) for case in cases])

    return encode
