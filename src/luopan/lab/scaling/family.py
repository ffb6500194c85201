"""The trainings that a law is fitted to: a family of shapes, each read several numbers of tokens.

The shapes keep the head size, the share of key/value heads and the ratio of width to depth of the recipe's model. The
learning rate falls with the square root of the width, unless several are tried (`factors`), which finds the best one
for each size. Everything before the stage is made once; every training is a stage of its own in the recipe's run, so a
killed family goes on. Limits: the batch is the recipe's for all sizes; a schedule is run to its end for each number of
tokens, none is cut out of a longer one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.artifacts import plain, stable_hash
from luopan.errors import RecipeError
from luopan.lab.sweep import Result, train_trial
from luopan.lab.sweep import Trial as SweepTrial
from luopan.model.config import ModelConfig
from luopan.pipeline.graph import needs_of, with_needs
from luopan.pipeline.reporter import Reporter
from luopan.recipe.load import LoadedRecipe, load_recipe

LEAST_STEPS = 20


@dataclass(frozen=True)
class Member:
    """One training: its stage, shape, tokens and learning rate (with its factor)."""

    stage: str
    model: ModelConfig
    tokens: int
    learning_rate: float
    factor: float

    @property
    def parameters(self) -> int:
        return self.model.num_parameters()

    def flops(self, length: int) -> float:
        return self.model.flops_per_token(length) * self.tokens


@dataclass(frozen=True)
class Family:
    """A planned family. `recipe` holds every member as a stage."""

    stage: str
    members: tuple[Member, ...]
    recipe: LoadedRecipe
    length: int
    rows: int

    @property
    def identity(self) -> str:
        return stable_hash([[m.stage, m.parameters, m.tokens, m.learning_rate] for m in self.members])[:10]


def shapes(model: ModelConfig, sizes: Sequence[float]) -> list[ModelConfig]:
    """The shape of the family nearest to each size. RecipeError where two come to the same."""
    group = model.num_attention_heads // model.kv_heads
    grain = model.head_size * group
    aspect = model.hidden_size / model.num_hidden_layers
    inner = model.intermediate_size / model.hidden_size
    known = [
        _shape(model, width, layers, group, inner)
        for width in range(grain, 64 * grain + 1, grain)
        for layers in sorted({max(1, round(width / aspect * stretch)) for stretch in (0.75, 1.0, 1.34)})
    ]

    def off(one: ModelConfig, size: float) -> float:
        bent = abs(one.hidden_size / one.num_hidden_layers / aspect - 1)
        return abs(one.num_parameters() / size - 1) + 0.1 * bent

    found = [min(known, key=lambda one, size=size: off(one, size)) for size in sizes]  # type: ignore[misc]
    if len({one.num_parameters() for one in found}) < len(found):
        raise RecipeError(
            "two of the sizes come to the same shape: " + ", ".join(f"{one.num_parameters():,}" for one in found),
            hint="Take sizes further apart: widths come in whole heads.",
        )
    return found


def _shape(model: ModelConfig, width: int, layers: int, group: int, inner: float) -> ModelConfig:
    heads = width // model.head_size
    changed = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads // group, "intermediate_size": max(8, round(inner * width / 8) * 8),
    }  # fmt: skip
    values = model.model_dump(exclude_unset=True)
    if "head_dim" in values:
        changed["head_dim"] = model.head_size
    return ModelConfig.model_validate({**values, **changed})


def plan_family(
    recipe: str | Path | Mapping[str, Any],
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    stage: str | None = None,
    factors: Sequence[float] = (1.0,),
) -> Family:
    """Trainings of every size on every number of tokens (`ratios`: tokens a parameter) with every factor of the
    learning rate. RecipeError where the recipe has no such stage, or nothing varies."""
    base = load_recipe(recipe)
    stages = base.recipe.stages
    known = [name for name, spec in stages.items() if spec.kind == "pretrain"]
    stage = stage or (known[0] if known else "")
    if stage not in known:
        raise RecipeError(f'there is no pretrain stage "{stage}"', hint=f"There are: {', '.join(known) or 'none'}")
    if len(set(sizes)) < 2 or len(set(ratios)) < 2:
        raise RecipeError("a law needs several sizes and several numbers of tokens", hint="three of each, or more")
    if min(ratios) <= 0 or min(factors) <= 0:
        raise RecipeError("tokens a parameter and factors must be above 0")
    spec: Any = stages[stage]
    written = base.written["stages"][stage]
    members: list[Member] = []
    made: dict[str, Any] = {
        name: copy.deepcopy(base.written["stages"][name])
        for name in stages
        if name in with_needs([stage], needs_of(stages)) and name != stage
    }
    for model in shapes(spec.model, sizes):
        rate = spec.learning_rate * (spec.model.hidden_size / model.hidden_size) ** 0.5
        for ratio in sorted(set(ratios)):
            steps = max(
                LEAST_STEPS, round(ratio * model.num_parameters() / (spec.rows_per_step * spec.sequence_length))
            )
            for factor in sorted(set(factors)):
                name = f"{stage}--{model.num_parameters()}--{steps}" + (f"--x{factor:g}" if factor != 1 else "")
                name = name.replace(".", "_")
                made[name] = _member(written, model, steps, float(f"{rate * factor:.3g}"))
                tokens = steps * spec.rows_per_step * spec.sequence_length
                members.append(Member(name, model, tokens, float(f"{rate * factor:.3g}"), factor))
    if len({member.stage for member in members}) < len(members):
        raise RecipeError(
            f"some trainings come to the same {LEAST_STEPS} steps", hint="More tokens a parameter, or smaller batches."
        )
    derived = load_recipe({**plain(base.written), "stages": made})
    return Family(stage, tuple(members), derived, spec.sequence_length, spec.rows_per_step)


def _member(written: Mapping[str, Any], model: ModelConfig, steps: int, rate: float) -> dict[str, Any]:
    own = copy.deepcopy(dict(written))
    for key in ("warmup_steps", "decay_steps", "branch", "branch_step"):
        own.pop(key, None)
    return {
        **own, "model": model.model_dump(exclude_unset=True, mode="json"), "max_steps": steps, "learning_rate": rate,
        "warmup_ratio": 0.05, "save_steps": max(steps, 1),
    }  # fmt: skip


def run_family(
    family: Family,
    *,
    runs: Path | str = "runs",
    reporter: Reporter | None = None,
    said: Callable[[str], None] = lambda text: None,
    stage_class: Callable[[str], Any] | None = None,
) -> list[tuple[Member, Result]]:
    """Train what is not trained yet, the smallest first; one that diverges is kept as such."""
    folder = family_folder(family, runs)
    found = []
    ordered = sorted(family.members, key=lambda member: member.flops(family.length))
    for number, member in enumerate(ordered, start=1):
        said(f"{number} of {len(ordered)}: {member.parameters:,} parameters, {member.tokens:,} tokens, "
             f"learning rate {member.learning_rate:g}")  # fmt: skip
        result = train_trial(family.recipe, SweepTrial(member.stage, (), 0), folder / "recipe.lock.yaml", runs=runs,
                             reporter=reporter, said=said, stage_class=stage_class)  # fmt: skip
        found.append((member, result))
    return found


def family_folder(family: Family, runs: Path | str) -> Path:
    return Path(runs) / family.recipe.recipe.name / "scaling" / f"{family.stage}-{family.identity}"
