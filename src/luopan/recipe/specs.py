"""What a recipe may say: one frozen model per stage kind, and the `Recipe` that holds them.

A stage spec is made of the configurations of the rooms it uses (`ModelConfig`, `TrainConfig`, `SamplingParams`, …) plus
what ties them together: which stages it reads from and what it measures. Unknown keys are refused everywhere, and a
key that would have no effect in the given combination is an error, not a comment. No torch is imported here, so
a recipe is read, and its mistakes are named, at once.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.corpus.config import CurateConfig
from luopan.corpus.config import expand as expand_curation
from luopan.corpus.source_config import CorpusSource
from luopan.model.config import ModelConfig
from luopan.recipe.distill_specs import DistillSpec
from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.merge_specs import MergeSpec
from luopan.recipe.mixture_specs import MixtureAblationSpec, TextSpec
from luopan.recipe.online_specs import OnlineDpoSpec, RejectionSpec
from luopan.recipe.parts import ChatSuite, SkillDocuments, Spec
from luopan.recipe.ppo_specs import PpoSpec
from luopan.recipe.preference_specs import PreferenceSpec
from luopan.recipe.reward_specs import RewardSpec
from luopan.recipe.rl_specs import GrpoSpec, OnPolicySpec
from luopan.recipe.sft_specs import ImportSpec, SftSpec
from luopan.recipe.synth_specs import SynthesizeSpec
from luopan.tokens.config import SampleConfig, TokenizerConfig


class CurateSpec(CurateConfig):
    """Documents in, filtered and deduplicated parquet out; skills are written as text documents beside them."""

    kind: Literal["curate"]
    source: CorpusSource | None = Field(default=None, description="default: the recipe's corpus section")
    max_source_bytes: PositiveInt | None = Field(
        default=None, description="keep at most so many bytes of each source; corpus.max_bytes overrides it by source"
    )
    skills: tuple[SkillDocuments, ...] = ()


class TokenizerSpec(TokenizerConfig, SampleConfig):
    """Train a byte-level BPE tokenizer on a curated corpus."""

    kind: Literal["tokenizer"]
    corpus: str = Field(description="the curate stage whose documents it learns from")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"corpus": ("curate",)}


class PretrainSpec(TextSpec):
    """Next-token training from random weights."""

    kind: Literal["pretrain"]
    corpus: str
    tokenizer: str
    model: ModelConfig
    eval_bytes: PositiveInt = Field(default=60_000, description="held-out bytes measured per source")
    z_loss_coef: float = Field(default=0.0, ge=0, description="weight of the squared log-normaliser of the softmax")
    branch: str | None = Field(
        default=None,
        description="a pretrain stage to go on from, weights and optimizer: its stable phase, decayed here",
    )
    branch_step: PositiveInt | None = Field(
        default=None, description="the checkpoint of the branch to begin from; default: its last"
    )
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "corpus": ("curate",),
        "tokenizer": ("tokenizer",),
        "branch": ("pretrain",),
    }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.branch_step is not None and self.branch is None:
            raise ValueError("branch_step has no effect without branch")
        if self.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"sequence_length {self.sequence_length} is longer than model.max_position_embeddings "
                f"{self.model.max_position_embeddings}"
            )
        return self


class MidtrainSpec(TextSpec):
    """Go on training a model on another mixture, at another length: domain adaptation and context extension."""

    kind: Literal["midtrain"]
    model: str = Field(description="the stage whose model goes on training")
    corpus: str
    extension: Literal["abf", "linear", "yarn"] | None = Field(
        default=None, description="how a longer context is reached: a larger RoPE base, or rescaled frequencies"
    )
    rope_theta: float | None = Field(default=None, gt=1, description="the new RoPE base, for extension abf")
    domain: str | None = Field(default=None, description="the source that this stage is about, for the report")
    eval_bytes: PositiveInt = 60_000
    retrieval_cases: int = Field(default=0, ge=0, description="held-out recall questions at the new length")
    z_loss_coef: float = Field(default=0.0, ge=0, description="as in pretrain")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "model": MODEL_KINDS,
        "corpus": ("curate",),
    }

    @model_validator(mode="after")
    def _extension_is_whole(self) -> Self:
        if (self.extension == "abf") != (self.rope_theta is not None):
            raise ValueError("rope_theta and extension abf need each other")
        return self


class EvalSpec(Spec):
    """Every model of the run on the same held-out cases."""

    kind: Literal["eval"]
    models: tuple[str, ...] = Field(min_length=1)
    corpus: str | None = None
    eval_bytes: PositiveInt = 60_000
    suite: ChatSuite = ChatSuite()
    dialogues: tuple[tuple[str, ...], ...] = Field(default=(), description="user turns to put to every model")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"models": MODEL_KINDS, "corpus": ("curate",)}


class ReportSpec(Spec):
    """One self-contained HTML page over the whole run."""

    kind: Literal["report"]
    stages: tuple[str, ...] = Field(min_length=1, description="the stages to show, in order")
    title: str | None = None
    limits: tuple[str, ...] = Field(default=(), description="what such a model cannot do, said on the page")
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "stages": ("curate", "tokenizer", *MODEL_KINDS, "reward", "synthesize", "mixture_ablation", "eval"),
    }


StageSpec = Annotated[
    CurateSpec
    | TokenizerSpec
    | PretrainSpec
    | MidtrainSpec
    | ImportSpec
    | SftSpec
    | PreferenceSpec
    | RewardSpec
    | GrpoSpec
    | PpoSpec
    | OnlineDpoSpec
    | RejectionSpec
    | DistillSpec
    | SynthesizeSpec
    | MergeSpec
    | MixtureAblationSpec
    | EvalSpec
    | ReportSpec,
    Field(discriminator="kind"),
]


class Recipe(Spec):
    """A whole run: `stages` maps the user's stage names to their specs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seed: int = 0
    corpus: CorpusSource | None = Field(default=None, description="where the curate stages read from")
    stages: dict[str, StageSpec] = Field(min_length=1)

    @staticmethod
    def expand(data: dict[str, Any]) -> dict[str, Any]:
        """A recipe's data with the presets of its curate stages filled in; anything odd is left to the checks."""
        stages = data.get("stages")
        if not isinstance(stages, dict):
            return data
        filled = {
            name: expand_curation(stage) if isinstance(stage, dict) and stage.get("kind") == "curate" else stage
            for name, stage in stages.items()
        }
        return {**data, "stages": filled}

    @model_validator(mode="after")
    def _corpus_is_read(self) -> Self:
        open_ones = [n for n, stage in self.stages.items() if stage.kind == "curate" and stage.source is None]
        if open_ones and self.corpus is None:
            raise ValueError(f"stage {open_ones[0]} needs the recipe's corpus section (corpus.path or corpus.packaged)")
        if self.corpus is not None and not open_ones:
            raise ValueError("the corpus section has no effect: no curate stage without a source of its own")
        self._sizes_fit()
        # The one place where a validated recipe is completed: each stage's identity must hold all that it reads.
        filled = {n: self.stages[n].model_copy(update={"source": self.corpus}) for n in open_ones}
        object.__setattr__(self, "stages", {**self.stages, **filled})
        return self

    def _sizes_fit(self) -> None:
        """What would fail only when a late stage starts is refused now: vocabularies and lengths that do not agree."""
        for name in self.stages:
            spec = self.stages[name]
            if isinstance(spec, PretrainSpec | MixtureAblationSpec):
                tokenizer = self.stages.get(spec.tokenizer)
                if isinstance(spec, PretrainSpec):
                    self._branch_fits(name, spec)
                if isinstance(tokenizer, TokenizerSpec) and tokenizer.vocab_size != spec.model.vocab_size:
                    raise ValueError(
                        f"stages.{name}.model.vocab_size is {spec.model.vocab_size}, but {spec.tokenizer} makes "
                        f"{tokenizer.vocab_size} tokens; set both to the same"
                    )
            elif isinstance(spec, SftSpec | PreferenceSpec | RewardSpec | OnPolicySpec):
                context = self._context(spec.model)
                if context is not None and spec.max_length > context:
                    raise ValueError(
                        f"stages.{name}.max_length is {spec.max_length}, but the context of {spec.model} is {context} "
                        "tokens; shorten it, or extend the context in a midtrain stage"
                    )

    def _branch_fits(self, name: str, spec: PretrainSpec) -> None:
        """A branch goes on with weights, optimizer and data of its base, so those have to agree."""
        base = self.stages.get(spec.branch) if spec.branch is not None else None
        if not isinstance(base, PretrainSpec):
            return
        for key in ("model", "optim", "ema_decay", "rows_per_step", "batch_warmup_steps", "sequence_length"):
            one, other = getattr(spec, key), getattr(base, key)
            if one != other:
                said = f" ({one}, there {other})" if key != "model" else ""
                raise ValueError(f"stages.{name} branches off {spec.branch}, and {key} is another one{said}")
        start = spec.branch_step or base.max_steps
        if spec.max_steps <= start:
            raise ValueError(
                f"stages.{name}.max_steps is {spec.max_steps}, and it begins with step {start} of {spec.branch}: "
                "max_steps counts from the first step of the run that is branched"
            )
        kept = {*range(base.save_steps, base.max_steps, base.save_steps), base.max_steps}
        often = base.keep_every_steps or 0
        last = sorted(kept)[-base.save_total_limit :]
        if start not in kept or (start not in last and not (often and start % often == 0) and base.keep_best is None):
            raise ValueError(
                f"stages.{name}.branch_step is {start}, and {spec.branch} keeps no checkpoint of that step: it keeps "
                f"{', '.join(map(str, last))}; set its save_steps and keep_every_steps so that {start} is kept"
            )

    def _context(self, name: str) -> int | None:
        """Tokens that the model of a stage can read; None where a reference is wrong (which is reported elsewhere)."""
        seen: set[str] = set()
        longest = 0
        while name in self.stages and name not in seen:
            seen.add(name)
            spec = self.stages[name]
            if isinstance(spec, PretrainSpec):
                return max(longest, spec.model.max_position_embeddings)
            if isinstance(spec, MidtrainSpec):
                longest = max(longest, spec.sequence_length)
            if isinstance(spec, MergeSpec):
                name = spec.models[0]  # merged models have one shape
                continue
            if not isinstance(spec, MidtrainSpec | SftSpec | PreferenceSpec | OnPolicySpec):
                return None
            name = spec.model
        return None
