"""The distillation collector: the student's own answers, and rows of data, with what the teacher thinks of them.

Part of a generation is answered by the student under its current weights, the other part are rows of data, in an order
that goes through all of them before one comes again: GKD's mixture (Agarwal et al. 2024, arXiv:2306.13649, algorithm
1), by share and not by chance. Everything is a function of (seed, generation, weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luopan.errors import TrainingError
from luopan.rl.feed import Collected
from luopan.rl.groups import Graded
from luopan.rl.log import write_log
from luopan.rl.online_pairs import Drawn
from luopan.rl.rollouts import Group, Prompt, Rollout
from luopan.tokens.batch import Doc
from luopan.train.ranks import gather_objects, share, together

Annotate = Callable[[Sequence[Doc]], list[Doc]]
"""Documents with the teacher's columns."""


GROUPED = ("dead_groups", "replaced_groups", "reward_std")


@dataclass(frozen=True)
class DistillSettings:
    """`rows`: of data, in a generation. `scores`: whether documents keep what they were sampled with (all of them or
    none). `graded`: whether the figures of the rewards say something."""

    rows: int
    seed: int
    scores: bool
    graded: bool = True


@dataclass
class DistillCollector:
    """See the module; a `rl.feed.Collector`. `answers` None: no prompt is answered. `data` have their columns already;
    `annotate` None: the teacher reads the batch itself."""

    answers: Drawn | None
    data: Sequence[Doc]
    annotate: Annotate | None
    settings: DistillSettings
    folder: Path

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """Sample, ask the teacher, log; one document per answer or row."""
        rounds, figures = self.answers(generation) if self.answers is not None else ([], {})
        answered = [(prompt, one) for part in rounds for prompt, some in part for one in some if one.tokens]
        own = [answer_doc(prompt, one, scores=self.settings.scores) for prompt, one in answered]
        rows = [self.data[number] for number in self._rows(generation)]
        if not own and not rows:
            raise TrainingError(
                f"step {step}: not one answer has a token", hint="Look at the prompts and the template."
            )
        if self.annotate is not None and own:
            own = self._annotated(own, self.annotate)
        self._log(step, rounds)
        kept = {name: value for name, value in figures.items() if self._says_something(name)}
        figures = {**kept, "on_policy": len(own) / (len(own) + len(rows))}
        return Collected([[doc] for doc in (*own, *rows)], figures)

    def _annotated(self, docs: Sequence[Doc], annotate: Annotate) -> list[Doc]:
        """Each rank asks about its share."""
        mine = share(docs)
        return [doc for part in gather_objects(together(lambda: annotate(mine))) for doc in part]

    def _says_something(self, name: str) -> bool:
        """One answer is no group; and where nothing is graded there are no rewards."""
        return name not in GROUPED and (self.settings.graded or not name.startswith(("reward", "ungraded")))

    def _rows(self, generation: int) -> list[int]:
        """Which rows of data a generation reads."""
        found = []
        for place in range(generation * self.settings.rows, (generation + 1) * self.settings.rows):
            sweep, number = divmod(place, len(self.data))
            found.append(int(np.random.default_rng([self.settings.seed, sweep, 3]).permutation(len(self.data))[number]))
        return found

    def _log(self, step: int, rounds: Sequence[Sequence[Graded]]) -> None:
        lines = []
        for number, part in enumerate(rounds):
            for prompt, some in part:
                lines.append({**Group(prompt, tuple(some), (0.0,) * len(some)).record(step), "round": number})
        write_log(self.folder, step, lines)


def answer_doc(prompt: Prompt, rollout: Rollout, *, scores: bool) -> Doc:
    """Prompt and answer; every token of the answer is compared, its stop token included."""
    before = len(prompt.input_ids)
    columns = {"old_logprobs": [0.0] * before + list(rollout.logprobs)} if scores else {}
    return Doc([*prompt.input_ids, *rollout.tokens], [-100] * before + list(rollout.tokens), per_token=columns)
