"""How a preference training is judged: sampled answers by the pairs' own criterion, held-out answers, drift.

Margins and pair accuracy go on improving while a model collapses, so what counts is what the model says when it is
asked: how often the flaw is still sampled, whether the skills have survived, how far it has moved from the reference on
answers of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luopan.corpus.skills import flaw_cases, generate_cases
from luopan.evals.skills import standard_error
from luopan.evals.verifiers import grade
from luopan.generate.config import SamplingParams
from luopan.generate.replies import reply_text
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.report.data import Figure
from luopan.stages.common import Chat
from luopan.stages.measure import SUITE_SEED, engine_of, suite_figures
from luopan.tokens.chat import Conversation, encode_prompts
from luopan.tokens.example import IGNORE, Example

OWN_ANSWERS = 64
OWN_TOKENS = 64


def sampled_answers(chat: Chat, spec: PreferenceSpec) -> dict[str, list[float]]:
    """One sampled answer to each held-out question: is it without the flaw, does it say the right thing (0 or 1)?

    Temperature 1, because greedy decoding hides a flaw that sits in a third of the answers. Question i draws the same
    random numbers before and after, so the two can be compared one by one.
    """
    cases = [
        case
        for skill in ("talk", "identity")
        for case in generate_cases(skill, (spec.flaw_cases + 1) // 2, SUITE_SEED, "test", thinking=0.0)
    ]
    prompts = encode_prompts(chat.tokenizer, [Conversation(case.messages) for case in cases])
    params = SamplingParams(max_new_tokens=64, temperature=1.0)
    completions = engine_of(chat).generate(prompts, params, seed=SUITE_SEED)
    texts = [reply_text(chat.tokenizer, done.tokens, prompt) for done, prompt in zip(completions, prompts, strict=True)]
    flawless = [grade(case, text).score or 0.0 for case, text in zip(flaw_cases(cases, spec.flaw), texts)]
    return {"flawless": flawless, "right": [grade(case, text).score or 0.0 for case, text in zip(cases, texts)]}


def own_answers(chat: Chat, prompts: Sequence[Sequence[int]]) -> list[list[Example]]:
    """What the model says to held-out prompts at temperature 1, the answers labelled: one a row."""
    asked = [list(prompt) for prompt in prompts[:OWN_ANSWERS]]
    room = chat.model.config.max_position_embeddings - OWN_TOKENS
    asked = [prompt for prompt in asked if len(prompt) <= room]
    params = SamplingParams(max_new_tokens=OWN_TOKENS, temperature=1.0)
    said = engine_of(chat).generate(asked, params, seed=SUITE_SEED)
    return [
        [Example([*prompt, *answer.tokens], [IGNORE] * len(prompt) + list(answer.tokens))]
        for prompt, answer in zip(asked, said, strict=True)
        if answer.tokens
    ]


def drift(policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """KL(policy || reference) in nats an answer, estimated on the policy's own answers, and its standard error."""
    gaps = [mine[0] - theirs[0] for mine, theirs in zip(policy, reference, strict=True)]
    return (sum(gaps) / len(gaps), standard_error(gaps) or 0.0) if gaps else None


def wins(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Per question: 1 where the later answer is the better one, 0 where it is the worse, 0.5 for a tie."""
    return [0.5 + 0.5 * ((new > old) - (new < old)) for old, new in zip(before, after)]


def judged(
    rows: Sequence[Sequence[Example]], scores: Sequence[Sequence[float]], reference: Sequence[Sequence[float]] | None
) -> dict[str, Any]:
    """Held-out answers under the model: how many pairs it ranks right, the margin of rewards, the part of length.

    Rows of pairs, or of answers with a label (then without ranking). Mismatched answers are passed over.
    """
    good: list[float] = []
    bad: list[float] = []
    ranked: list[float] = []
    longer: list[float] = []
    for place, (row, values) in enumerate(zip(rows, scores, strict=True)):
        base = reference[place] if reference is not None else [0.0] * len(row)
        gains = [value - other for value, other in zip(values, base, strict=True)]
        sides: dict[int, dict[bool, tuple[float, float, int]]] = {}
        for doc, value, gain in zip(row, values, gains, strict=True):
            if doc.fields.get("mismatched"):
                continue
            is_good = bool(doc.fields["is_chosen"] if "is_chosen" in doc.fields else doc.fields["label"])
            (good if is_good else bad).append(gain)
            if "pair" in doc.fields:
                sides.setdefault(int(doc.fields["pair"]), {})[is_good] = (value, gain, doc.num_trained)
        for both in sides.values():
            (value, _, tokens), (other_value, _, other_tokens) = both[True], both[False]
            ranked.append(float(value > other_value))
            if tokens != other_tokens:
                longer.append(float((value > other_value) == (tokens > other_tokens)))
    mean = lambda values: sum(values) / len(values) if values else 0.0  # noqa: E731 - twice, here only
    found: dict[str, Any] = {"margin": mean(good) - mean(bad), "n": len(good) + len(bad)}
    if ranked:
        found |= {"ranked": mean(ranked), "pairs": len(ranked)}
    if longer:
        found |= {"longer_preferred": mean(longer), "unequal": len(longer)}
    return found


def preference_figures(before: dict[str, Any], after: dict[str, Any], *, referenced: bool) -> list[Figure]:
    """Everything before and after, the sampled answers first."""
    figures: list[Figure] = []
    if "flawless" in after:
        n = len(after["flawless"])
        won = wins(before["flawless"], after["flawless"])
        figures.append(
            Figure(name="win rate over its input", before=0.5, after=sum(won) / n, unit="%", n=n,
                   stderr_after=standard_error(won),
                   help="sampled answers to held-out questions; the flaw loses, ties count half")
        )  # fmt: skip
        for key, name, text in (
            ("flawless", "answers without the flaw", "sampled at temperature 1 on held-out questions"),
            ("right", "right answers, sampled", "the same questions, graded for what is said"),
        ):
            old, new = before[key], after[key]
            figures.append(
                Figure(name=name, before=sum(old) / n, after=sum(new) / n, unit="%", stderr_before=standard_error(old),
                       stderr_after=standard_error(new), n=n, help=text)
            )  # fmt: skip
    if "ranked" in after:
        figures.append(
            Figure(name="held-out pairs ranked right", before=before["ranked"], after=after["ranked"], unit="%",
                   n=after["pairs"], headline="flawless" not in after,
                   help="log-probability of the chosen answer above that of the rejected one")
        )  # fmt: skip
    if referenced:
        figures.append(
            Figure(name="reward margin", before=before["margin"], after=after["margin"], unit="nats", n=after["n"],
                   headline="ranked" not in after,
                   help="held-out answers, good over bad, against the reference; no proof of a better model")
        )  # fmt: skip
    if "longer_preferred" in after:
        figures.append(
            Figure(name="longer answer preferred", before=before["longer_preferred"], after=after["longer_preferred"],
                   unit="%", n=after["unequal"], headline=False, higher_is_better=None,
                   help="held-out pairs of unequal length: how often the longer one is the likelier")
        )  # fmt: skip
    if "drift" in after:
        kl, error = after["drift"]
        start = 0.0 if after["from_itself"] else None  # another stage as the reference: not measured at the start
        figures.append(
            Figure(name="distance from the reference", before=start, after=kl, unit="nats", stderr_after=error,
                   n=after["own"], headline=False, higher_is_better=None,
                   help="KL an answer, on its own sampled answers to held-out prompts")
        )  # fmt: skip
    return figures + suite_figures(before["suite"], after["suite"], headline=("skills, mean",))
