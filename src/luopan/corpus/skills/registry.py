"""All skill families by name, and the one door to their cases: `generate_cases`."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from luopan.corpus.skills import (
    arithmetic,
    identity,
    letters,
    lists,
    persona,
    recall,
    self_identity,
    self_persona,
    story,
    talk,
)
from luopan.corpus.skills.case import Case, Skill, Split, build_options, draw_cases
from luopan.corpus.skills.gym import GYM_PREFIX, gym_cases
from luopan.errors import DataError


@cache
def _skills() -> dict[str, Skill]:
    families = (arithmetic, lists, letters, story, recall, identity, talk, persona, self_identity, self_persona)
    return {skill.name: skill for family in families for skill in family.SKILLS}


def skill_names() -> tuple[str, ...]:
    """The names that `generate_cases` knows, beside `rg:<task>` for the tasks of reasoning_gym."""
    return tuple(_skills())


def generate_cases(skill: str, n: int, seed: int, split: Split = "train", **options: Any) -> list[Case]:
    """`n` cases of a skill: deterministic, train and test disjoint whatever `n` and `seed` are.

    `options` are the fields of the skill's options dataclass; `thinking`, the share of cases in the thinking form, is
    in all of them. Test cases are distinct, so a small question space may give fewer than `n`. Unknown skills,
    options and values are DataErrors.
    """
    if split not in ("train", "test"):
        raise DataError(f"split is {split!r}; it is 'train' or 'test'", where=f"skill {skill!r}")
    if skill.startswith(GYM_PREFIX):
        return gym_cases(skill.removeprefix(GYM_PREFIX), n, seed, split, **options)
    known = _skills()
    if skill not in known:
        near = difflib.get_close_matches(skill, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"skills: {', '.join(known)}, {GYM_PREFIX}<task>"
        raise DataError(f"there is no skill {skill!r}", where="skills", hint=hint)
    chosen = known[skill]
    return draw_cases(chosen, n, seed, split, build_options(chosen, options))
