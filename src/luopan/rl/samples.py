"""Rollouts for the report: how the policy answered at the beginning, in the middle and at the end.

Of each of these steps one prompt, the one whose answers were worth the most different things: its best answer beside
its worst. Then, of the same steps, an answer that could not be graded and the longest one. The choice is a function of
the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luopan.report.data import Answer, Message, Sample
from luopan.rl.browse import Log, Record, Row, search
from luopan.rl.browse import Wanted as All
from luopan.rl.log import logged_steps
from luopan.tokens.messages import split_thinking


def rollout_samples(folder: Path, *, most: int = 3) -> list[Sample]:
    """Samples of the log in `folder` from `most` steps; none where there is no log."""
    steps = tuple(logged_steps(folder))
    if not steps:
        return []
    log = Log("", folder, steps)
    places = sorted({round(at * (len(steps) - 1) / max(1, most - 1)) for at in range(most)})
    chosen = [steps[place] for place in places]
    found: list[Sample] = []
    everything: list[Row] = []
    for step in chosen:
        rows = list(search(log, [step], All()))
        everything += rows
        own = [row for row in rows if not row.record.get("round") and row.rewards]
        if own:
            found.append(best_beside_worst(max(own, key=lambda row: max(row.rewards) - min(row.rewards))))
    return found + odd_ones(everything)


def best_beside_worst(row: Row) -> Sample:
    """A prompt with its best answer and its worst, or one answer where all were worth the same."""
    graded = [answer for answer in row.answers if answer["reward"] is not None]
    best, worst = (pick(graded, key=lambda answer: answer["reward"]) for pick in (max, min))
    answers = {f"best, reward {best['reward']:.3g}": _answer(best)}
    if worst["reward"] < best["reward"]:
        answers[f"worst, reward {worst['reward']:.3g}"] = _answer(worst)
    return _sample(row, answers, f"step {row.step}")


def odd_ones(rows: Sequence[Row]) -> list[Sample]:
    """An answer that could not be graded, and the longest one."""
    found = []
    for row in rows:
        lost = next((answer for answer in row.answers if answer["reward"] is None), None)
        if lost is not None:
            found.append(_sample(row, {"not graded": _answer(lost)}, f"step {row.step}, not graded"))
            break
    pairs = [(len(answer["tokens"]), -place, answer) for place, row in enumerate(rows) for answer in row.answers]
    if pairs:
        tokens, place, answer = max(pairs, key=lambda pair: pair[:2])
        row = rows[-place]
        label = "not graded" if answer["reward"] is None else f"reward {answer['reward']:.3g}"
        found.append(_sample(row, {label: _answer(answer)}, f"step {row.step}, the longest with {tokens} tokens"))
    return found


def _sample(row: Row, answers: dict[str, Answer], title: str) -> Sample:
    return Sample(
        messages=[Message(role="user", content=row.record["question"])],
        answers=answers,
        title=f"{title}: {row.record['task']}" if row.record["task"] else title,
        group="rollouts",
        thinking=row.record.get("thinking"),
        expected=row.record.get("reference") or None,
    )


def _answer(answer: Record) -> Answer:
    thinking, text = split_thinking(answer["text"])
    judged = answer["parts"].get("verifier")
    return Answer(
        text=text,
        thinking=thinking,
        correct=None if judged is None else judged == 1.0,
        finish_reason=answer["finish_reason"],
        tokens=len(answer["tokens"]),
    )
