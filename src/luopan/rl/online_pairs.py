"""Pairs from the policy's own answers, for online preference optimisation: what earned more against what earned less.

Of each prompt's graded answers one pair is made: the best against the worst, or the first two as they were drawn, which
is what Guo et al. 2024 (arXiv:2402.04792) do with a judge. Answers that earned the same, or differ by less than
`margin`, are no pair. Ties among the best and among the worst are broken by the order in which they were drawn, so that
nothing but the reward chooses.

An update must have something to read even when nothing was worth comparing: prompts whose answers earned the same then
give *idle* pairs, whose loss is 0 and which count as pairs, and the figure `idle_pairs` says how many.

With the updates of a generation cut into n (`steps_per_generation: n`) the policy that samples lags behind by up to
n - 1 updates: semi-online (Lanchantin et al. 2025, arXiv:2506.21495), between online at 1 and offline at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

from luopan.errors import TrainingError
from luopan.rl.feed import Collected
from luopan.rl.groups import DEAD, Graded, check_dead
from luopan.rl.log import write_log
from luopan.rl.rollouts import Group, Rollout
from luopan.tokens.batch import Doc
from luopan.train.ranks import gather_objects, share, together

Drawn = Callable[[int], tuple[list[list[Graded]], dict[str, float]]]
"""A generation's graded answers, round by round, and figures of them: `GroupCollector.drawn`."""
Choice = Literal["best_worst", "two"]
TokenColumns = Callable[[Sequence[Doc]], list[list[float]]]


@dataclass(frozen=True)
class PairSettings:
    """`pairs`: of a generation at most so many. `least`: so many there must be, idle ones if need be (as many as there
    are updates and ranks to read them). `dead_generations`: so many in a row without a pair are an error."""

    choice: Choice
    margin: float
    pairs: int
    least: int = 1
    dead_generations: int = 20


@dataclass
class PairCollector:
    """See the module; a `rl.feed.Collector`. `reference` None: the loss asks for none."""

    answers: Drawn
    reference: TokenColumns | None
    settings: PairSettings
    folder: Path

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """Sample, grade, compare and log the answers of a generation; a unit of two documents per pair."""
        rounds, figures = self.answers(generation)
        found: list[tuple[Graded, Rollout, Rollout]] = []
        ties: list[tuple[Graded, Rollout, Rollout]] = []
        for graded in (one for part in rounds for one in part):
            pair = chosen_pair(graded[1], self.settings.choice, self.settings.margin)
            if pair is not None:
                found.append((graded, *pair))
            elif (tie := tied_pair(graded[1])) is not None:
                ties.append((graded, *tie))
        learnt = found[: self.settings.pairs]
        idle = _repeated(ties or learnt, self.settings.least - len(learnt))
        if len(learnt) + len(idle) < self.settings.least:
            raise TrainingError(
                f"step {step}: not one prompt has two answers that are graded",
                hint="Raise num_generations; with truncation: mask, raise max_completion_length.",
            )
        self._log(step, rounds, learnt)
        numbers = count()
        units = [pair_docs(*pair, number=next(numbers), idle=False) for pair in learnt]
        units += [pair_docs(*pair, number=next(numbers), idle=True) for pair in idle]
        kept: dict[str, float] = {}
        if not learnt:
            kept[DEAD] = carry.get(DEAD, 0.0) + 1
            check_dead(int(kept[DEAD]), self.settings.dead_generations, [one for part in rounds for one in part])
        return Collected(self._referenced(units), {**figures, **pair_figures(learnt, idle, rounds)}, kept)

    def _referenced(self, units: list[list[Doc]]) -> list[Sequence[Doc]]:
        """With the reference's log-probability of each answer; each rank scores its share."""
        if self.reference is None:
            return list(units)
        reference = self.reference
        docs = [doc for unit in units for doc in unit]
        mine = share(docs)
        columns = [column for part in gather_objects(together(lambda: reference(mine))) for column in part]
        scored = [
            replace(doc, fields={**doc.fields, "reference_logprob": float(sum(column))})
            for doc, column in zip(docs, columns, strict=True)
        ]
        return [scored[place : place + 2] for place in range(0, len(scored), 2)]

    def _log(
        self, step: int, rounds: Sequence[Sequence[Graded]], learnt: Sequence[tuple[Graded, Rollout, Rollout]]
    ) -> None:
        """Every answer; `advantage` is 1 of the chosen and -1 of the rejected one of a pair."""
        side = {id(one): sign for _, good, bad in learnt for one, sign in ((good, 1.0), (bad, -1.0))}
        lines = []
        for number, part in enumerate(rounds):
            for prompt, rollouts in part:
                signs = tuple(side.get(id(one), 0.0) for one in rollouts)
                lines.append({**Group(prompt, tuple(rollouts), signs).record(step), "round": number})
        write_log(self.folder, step, lines)


def chosen_pair(rollouts: Sequence[Rollout], choice: Choice, margin: float) -> tuple[Rollout, Rollout] | None:
    """(better, worse) of the answers to a prompt, None where they are too much alike; a difference of exactly `margin`
    is enough if it is above 0."""
    graded = [(one.reward, one) for one in rollouts if one.reward is not None and one.tokens]
    if choice == "two":
        graded = graded[:2]
    if len(graded) < 2:
        return None
    best, worst = max(graded, key=lambda one: one[0]), min(graded, key=lambda one: one[0])
    gap = best[0] - worst[0]
    return (best[1], worst[1]) if gap > 0 and gap >= margin else None


def tied_pair(rollouts: Sequence[Rollout]) -> tuple[Rollout, Rollout] | None:
    """Two graded answers, whatever they earned."""
    graded = [one for one in rollouts if one.reward is not None and one.tokens]
    return (graded[0], graded[1]) if len(graded) > 1 else None


def pair_docs(graded: Graded, good: Rollout, bad: Rollout, *, number: int, idle: bool) -> list[Doc]:
    """Both answers with their prompt, trained from the first to the stop token."""
    prompt, docs = graded[0], []
    for chosen, one in ((True, good), (False, bad)):
        before = len(prompt.input_ids)
        docs.append(
            Doc(
                input_ids=[*prompt.input_ids, *one.tokens],
                labels=[-100] * before + list(one.tokens),
                per_token={"old_logprobs": [0.0] * before + list(one.logprobs)},
                fields={"pair": number, "is_chosen": chosen, "idle": idle},
            )
        )
    return docs


def pair_figures(
    learnt: Sequence[tuple[Graded, Rollout, Rollout]], idle: Sequence[object], rounds: Sequence[Sequence[Graded]]
) -> dict[str, float]:
    """How many pairs there are, of how many prompts, and how far apart their sides are."""
    asked = sum(map(len, rounds))
    figures = {"pairs": float(len(learnt)), "idle_pairs": float(len(idle)), "pairs_per_prompt": len(learnt) / asked}
    figures["idle"] = float(not learnt)  # then the update changes nothing, momentum and weight decay included
    if learnt:
        gaps = [float(good.reward or 0.0) - float(bad.reward or 0.0) for _, good, bad in learnt]
        longer = [len(good.tokens) - len(bad.tokens) for _, good, bad in learnt]
        figures |= {"reward_gap": sum(gaps) / len(gaps), "chosen_longer_by": sum(longer) / len(longer)}
    return figures


def _repeated(pairs: Sequence[tuple[Graded, Rollout, Rollout]], wanted: int) -> list[tuple[Graded, Rollout, Rollout]]:
    """So many of them, from the first again where they run out."""
    return [pairs[number % len(pairs)] for number in range(max(0, wanted))] if pairs else []
