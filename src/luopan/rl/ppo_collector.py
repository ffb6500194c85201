"""PPO's collector: graded answers in, documents with advantages and returns out, every answer in the log.

Sampling and grading are the business of whoever is asked for `answers` (`luopan.rl.groups`); here they are scored by
the value model and the reference, each rank its share, and turned into what the updates read (`luopan.rl.ppo`). What is
collected is a function of (seed, generation, weights, carry): the coefficient of the divergence is carried from one
generation to the next through the buffer file, so a resumed run goes on with the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luopan.errors import TrainingError
from luopan.rl.feed import Collected
from luopan.rl.log import write_log
from luopan.rl.ppo import PpoSettings, carried, with_returns
from luopan.rl.rollouts import Group, Prompt, Rollout
from luopan.tokens.batch import Doc
from luopan.train.ranks import gather_objects, share, together

Graded = tuple[Prompt, list[Rollout]]
Columns = list[list[float]]
TokenColumns = Callable[[Sequence[Doc]], Columns]
"""Documents to a number per token of each."""

Answers = Callable[[int, Mapping[str, float]], tuple[list[Graded], dict[str, float], dict[str, float]]]


@dataclass
class PpoCollector:
    """See the module; a `rl.feed.Collector`.

    answers: of a generation and the carry the graded answers, figures over them, and what the next generation is told;
    the same on every rank. policy: scores what it has said once more, as the trainer does; `logprob_gap` is how far
    that is from what the engine sampled with. reference None: the divergence has no price.
    """

    answers: Answers
    policy: TokenColumns
    values: TokenColumns
    reference: TokenColumns | None
    settings: PpoSettings
    folder: Path

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """Score, value and log the answers of a generation; one document each."""
        groups, figures, kept = self.answers(generation, carry)
        learnt = [(prompt, one) for prompt, some in groups for one in some if one.reward is not None and one.tokens]
        if not learnt:
            raise TrainingError(
                f"step {step}: there is nothing to learn from: not one answer has a reward",
                hint="With truncation: mask, answers that do not end have none; raise max_completion_length.",
            )
        docs = [answer_doc(prompt, rollout) for prompt, rollout in learnt]
        said, values, reference = self._columns(docs)
        kl_coef = carry.get("kl_coef", self.settings.kl_coef)
        rewards = [float(one.reward or 0.0) for _, one in learnt]
        found, more = with_returns(docs, rewards, values, reference, self.settings, kl_coef)
        known = {id(one): doc for (_, one), doc in zip(learnt, found)}
        write_log(self.folder, step, [record(prompt, some, step, known) for prompt, some in groups])
        after = kept | carried(self.settings, kl_coef, more.get("kl", 0.0), len(found))
        return Collected([[doc] for doc in found], {**figures, **more, **gaps(docs, said)}, after)

    def _columns(self, docs: Sequence[Doc]) -> tuple[Columns, Columns, Columns | None]:
        """The policy's log-probabilities, values, and the reference's where they are asked for; each rank scores its
        share."""
        mine = share(docs)
        ask = self.reference or (lambda some: [])
        parts = gather_objects(together(lambda: (self.policy(mine), self.values(mine), ask(mine))))
        said, values, reference = ([column for part in parts for column in part[place]] for place in range(3))
        return said, values, None if self.reference is None else reference


def answer_doc(prompt: Prompt, rollout: Rollout) -> Doc:
    """Prompt and answer as one document: the answer's tokens are trained, its stop token included."""
    before = len(prompt.input_ids)
    return Doc(
        input_ids=[*prompt.input_ids, *rollout.tokens],
        labels=[-100] * before + list(rollout.tokens),
        per_token={"old_logprobs": [0.0] * before + list(rollout.logprobs)},
    )


def gaps(docs: Sequence[Doc], said: Columns) -> dict[str, float]:
    """Mean and largest distance between the log-probabilities of the trainer and of the engine, in nats."""
    apart = np.concatenate([np.abs(np.subtract(doc.per_token["old_logprobs"], one)) for doc, one in zip(docs, said)])
    return {
        "logprob_gap": float(apart.sum() / sum(doc.num_trained for doc in docs)),
        "logprob_gap_max": float(apart.max()),
    }


def record(prompt: Prompt, rollouts: Sequence[Rollout], step: int, known: Mapping[int, Doc]) -> dict[str, Any]:
    """A line of the log. Beside what every algorithm writes: what the value model expected of each answer before its
    first token. `advantage` is the mean over its tokens; both are 0 where the answer was left out."""
    docs = [known.get(id(one)) for one in rollouts]
    means = tuple(0.0 if doc is None else float(np.mean(answer_part(doc, "advantages"))) for doc in docs)
    line = Group(prompt, tuple(rollouts), means).record(step)
    for answer, doc in zip(line["answers"], docs, strict=True):
        answer["value"] = 0.0 if doc is None else round(answer_part(doc, "old_values")[0], 4)
    return line


def answer_part(doc: Doc, column: str) -> list[float]:
    """A column over the answer's tokens."""
    return list(doc.per_token[column][len(doc) - doc.num_trained :])
