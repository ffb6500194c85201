"""Longer conversations out of single cases: earlier exchanges put in front of a question.

People greet, ask a sum, thank, and ask another; a model that met its skills only in the first turn answers them
there only. The earlier turns come from `context` (training cases, also for a test set), in the same thinking mode and
never from a case with a system prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from luopan.corpus.skills.case import Case, Message, check_share
from luopan.errors import DataError


def converse(
    cases: Sequence[Case],
    share: float,
    *,
    seed: int = 0,
    context: Sequence[Case] | None = None,
    max_turns: int = 2,
) -> list[Case]:
    """The cases, a share of them with 1..`max_turns` earlier exchanges in front; grading is of the last turn still."""
    try:
        check_share("share", share)
    except ValueError as error:
        raise DataError(str(error), where="converse") from error
    random = Random(f"converse/{seed}")
    pools = {mode: [case for case in context or cases if _usable(case, mode)] for mode in (False, True)}
    return [_extend(random, case, pools[case.enable_thinking], share, max_turns) for case in cases]


def _usable(case: Case, thinking: bool) -> bool:
    return case.enable_thinking == thinking and case.messages[0]["role"] == "user"


def _extend(random: Random, case: Case, pool: Sequence[Case], share: float, max_turns: int) -> Case:
    if random.random() >= share or not pool:
        return case
    earlier: list[Message] = []
    for other in random.choices(pool, k=random.randint(1, max_turns)):
        earlier += other.conversation()
    system = case.messages[:1] if case.messages[0]["role"] == "system" else ()
    return replace(case, messages=(*system, *earlier, *case.messages[len(system) :]))
