"""Answers of a sampler that is not the policy of now, another engine or older weights: scored again by the trainer.

The trainer's log-probabilities at the start of a generation become the old ones that the loss's ratio is over; the
sampler's stay beside them, for the capped weight between the two (`luopan.objectives.importance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from luopan.rl.rollouts import Prompt, Rollout, rollout_doc
from luopan.tokens.batch import Doc
from luopan.train.ranks import gather_objects, share, together

Scorer = Callable[[Sequence[Doc]], list[list[float]]]
"""Documents to a number per token of each."""
Answered = tuple[Prompt, list[Rollout]]


def rescored(groups: Sequence[Answered], trainer: Scorer) -> tuple[list[Answered], dict[str, float]]:
    """The groups with the trainer's log-probabilities, the sampler's kept, and how far apart the two are, in nats. Each
    rank scores its share."""
    asked = [(prompt, rollout) for prompt, rollouts in groups for rollout in rollouts if rollout.tokens]
    mine = [rollout_doc(prompt, rollout, 0.0) for prompt, rollout in share(asked)]
    columns = [column for part in gather_objects(together(lambda: trainer(mine))) for column in part]
    answers = {
        id(rollout): replace(
            rollout, logprobs=tuple(column[len(prompt.input_ids) :]), sampled_logprobs=rollout.logprobs
        )
        for (prompt, rollout), column in zip(asked, columns, strict=True)
    }
    found = [(prompt, [answers.get(id(rollout), rollout) for rollout in rollouts]) for prompt, rollouts in groups]
    return found, gaps(list(answers.values()))


def gaps(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean and largest distance between the log-probabilities of trainer and sampler over all tokens."""
    apart = np.abs(np.concatenate([np.subtract(one.logprobs, one.sampled_logprobs) for one in rollouts]))
    return {"logprob_gap": float(apart.mean()), "logprob_gap_max": float(apart.max())}


def with_rescored(
    rounds: Sequence[Sequence[Answered]], before: Sequence[Answered], after: Sequence[Answered]
) -> list[list[Answered]]:
    """What was sampled, with the groups that were scored again in their places."""
    new = {id(old[1]): group for old, group in zip(before, after, strict=True)}
    return [[new.get(id(group[1]), group) for group in part] for part in rounds]
