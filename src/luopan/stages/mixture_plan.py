"""From what a spec says of its mixture to the rows of a run: shards, plan, and the plan as words, table and picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.recipe.mixture_specs import TextSpec
from luopan.report.data import Cell, Mixture, Table
from luopan.stages.base import Workspace
from luopan.stages.text import mixture_weights, shard_corpus
from luopan.tokens.mixture import MixturePlan, plan_mixture
from luopan.tokens.mixture_config import MixtureConfig, stage_rows
from luopan.tokens.order import MixtureStage
from luopan.tokens.rows import TokenRows
from luopan.tokens.shards import TokenShards
from luopan.train.losses import causal_lm_loss
from luopan.train.ranks import rank
from luopan.train.schedule import first_row
from luopan.train.step import LossFn


@dataclass(frozen=True)
class TextMixture:
    """The token shards of every source that is read, and the plan of the run over them."""

    shards: Mapping[str, TokenShards]
    plan: MixturePlan

    def rows(self, seed: int) -> TokenRows:
        """The run's rows."""
        return TokenRows(self.shards, self.plan.weights, self.plan.sequence_length, seed)

    def loss(self, z_loss_coef: float) -> LossFn:
        """Next-token loss, told by source where there are several."""
        return partial(causal_lm_loss, z_loss_coef=z_loss_coef, sources=tuple(self.shards))


def wanted_stages(
    corpus: Artifact, config: MixtureConfig, rows: int, sequence_length: int
) -> tuple[list[str], list[MixtureStage]]:
    """The sources that are read, in the order of the corpus, and the stages of a run of so many rows. RecipeError where
    a mixture does not fit the corpus or the stages not the run."""
    temperature = config.mixture_temperature
    if config.mixture_stages is None:
        weights = mixture_weights(corpus, config.mixture, temperature)
        return list(weights), [MixtureStage(weights, rows)]
    try:
        lengths = stage_rows(config.mixture_stages, rows, sequence_length)
    except ValueError as error:
        raise RecipeError(str(error), hint="Change their lengths or max_steps.") from error
    found = [mixture_weights(corpus, stage.mixture, temperature) for stage in config.mixture_stages]
    read = {name for weights in found for name in weights}
    names = [name for name in mixture_weights(corpus, None) if name in read]
    return names, [MixtureStage(weights, length) for weights, length in zip(found, lengths)]


def open_mixture(
    corpus: Artifact, tokenizer: Any, folder: Path, config: MixtureConfig, rows: int, sequence_length: int
) -> TextMixture:
    """Shards in `folder` (made where they are not there yet) and the plan of a run of `rows` rows over them."""
    names, stages = wanted_stages(corpus, config, rows, sequence_length)
    shards = shard_corpus(corpus, tokenizer, folder, names)
    sizes = {name: shards[name].num_tokens for name in names}
    return TextMixture(shards, plan_mixture(sizes, stages, sequence_length, config.max_epochs))


def planned(spec: TextSpec, corpus: Artifact, tokenizer: Any, out: Workspace) -> TextMixture:
    """The mixture of a training stage; its plan is told before anything is trained on."""
    rows = first_row(spec, spec.max_steps)
    mixture = open_mixture(corpus, tokenizer, out.path / "shards", spec, rows, spec.sequence_length)
    if rank() == 0:
        out.progress.note(mixture.plan.text())
    return mixture


def plan_table(plan: MixturePlan) -> Table:
    """The plan for the report."""
    many = range(len(plan.stages)) if len(plan.stages) > 1 else range(0)
    rows: list[list[Cell]] = [
        [part.name, part.unique_tokens, part.tokens, part.share, *(plan.stage_share(n, part.name) for n in many),
         part.epochs, part.worth]
        for part in plan.sources
    ]  # fmt: skip
    remarks = " ".join(plan.remarks())
    return Table(
        title="The mixture, planned before the run",
        columns=["source", "it has", "read", "share", *(f"stage {n + 1}" for n in many), "epochs", "worth as fresh"],
        rows=rows,
        units=["", "tokens", "tokens", "%", *("%" for _ in many), "", "%"],
        total=["all", sum(part.unique_tokens for part in plan.sources), plan.tokens, 1.0, *(1.0 for _ in many), None,
               plan.worth],
        caption="What a repeated token is worth beside a fresh one: U + U R* (1 - exp(-R / R*)), R* = 15.39 "
        f"(Muennighoff et al. 2023), by source. {remarks}".strip(),
    )  # fmt: skip


def stages_picture(plan: MixturePlan) -> list[Mixture]:
    """What each stage of the mixture reads; nothing where there is one."""
    if len(plan.stages) == 1:
        return []
    names = [part.name for part in plan.sources]
    rows = {
        f"stage {n + 1}": {
            name: plan.stage_share(n, name) * plan.stage_tokens(n) for name in names if plan.stage_share(n, name)
        }
        for n in range(len(plan.stages))
    }
    return [Mixture(title="The mixture, stage by stage", rows=rows, unit="tokens")]
