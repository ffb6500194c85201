"""The verifiers of the prompts as a reward part: all answers of a call at once, what may hang in other processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luopan.evals.verifiers import Job, verify_many
from luopan.rl.rewards import SECONDS, Answer, PartlyGraded, Score, each

VERIFIER = "verifier"  # what the part is called


class ByVerifier:
    """A part's `score`. A prompt with no `verifier` is graded by its `grade`, here and now.

    `seconds`: of processor time for one answer where a verifier may hang, and of time for a `grade`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._alone = each(lambda answer: answer.prompt.grade(answer.text), seconds)

    def __call__(self, answers: Sequence[Answer]) -> list[Score]:
        """Scores, None where there is none. PartlyGraded tells why, where it is known."""
        scores: list[Score] = [None] * len(answers)
        ruled = [place for place, answer in enumerate(answers) if answer.prompt.verifier]
        others = [place for place, answer in enumerate(answers) if not answer.prompt.verifier]
        jobs = [Job(answer.prompt.verifier, answer.text, answer.prompt.args) for answer in (answers[i] for i in ruled)]
        failure = ""
        for place, verdict in zip(ruled, verify_many(jobs, limit_s=max(1, math.ceil(self.seconds))), strict=True):
            scores[place] = verdict.score
            failure = verdict.reason if verdict.score is None else failure
        try:
            found = self._alone([answers[place] for place in others])
        except PartlyGraded as some:
            found, failure = some.scores, some.failure
        for place, score in zip(others, found, strict=True):
            scores[place] = score
        if failure:
            raise PartlyGraded(scores, failure)
        return scores
