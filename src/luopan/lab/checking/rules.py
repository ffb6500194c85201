"""Settings that are allowed and hardly ever meant: rates, lengths, budgets, of each stage and between stages.

The ranges are wide: what lies outside of them was a slip of a decimal or a unit in nearly all cases. Sources: published
recipes in docs/recipes.md, the Smol Training Playbook's scans, and the fits in `luopan.lab.planning.scaling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from luopan.lab.checking.findings import Finding
from luopan.lab.planning.from_recipe import StagePlan, stage_plans
from luopan.model.config import ModelConfig
from luopan.pipeline.graph import needs_of
from luopan.train.config import TrainConfig

Rule = Callable[[Mapping[str, Any]], Iterator[Finding]]
# Learning rates of full training by kind, lowest and highest that were published and worked; adapters take ten times.
RATES = {
    "pretrain": (1e-5, 5e-2), "midtrain": (1e-6, 2e-2), "sft": (1e-7, 1e-2), "preference": (1e-8, 1e-3),
    "online_dpo": (1e-8, 1e-3), "reward": (1e-7, 5e-3), "grpo": (1e-8, 3e-3), "ppo": (1e-8, 3e-3),
}  # fmt: skip
SMALL = 5e7  # parameters: larger models do not bear a rate of 3e-3 outside of pretraining


def look(stages: Mapping[str, Any]) -> list[Finding]:
    """Everything the rules have to say of a recipe's stages."""
    plans = {plan.name: plan for plan in stage_plans(stages)}
    found = [
        one for rule in (rates, between, shapes, contexts, budgets, evaluation, rollouts) for one in rule(stages, plans)
    ]
    return found or [Finding("settings", "ok", f"{len(stages)} stages, nothing out of the ordinary")]


def _training(stages: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, spec) for name, spec in stages.items() if isinstance(spec, TrainConfig))


def rates(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Learning rates outside of what was ever published for the kind."""
    for name, spec in _training(stages):
        if spec.kind not in RATES or spec.optim == "muon":
            continue
        low, high = RATES[spec.kind]
        scale = 10.0 if getattr(spec, "adapter", None) is not None else 1.0
        model = plans[name].model
        if model is not None and model.num_parameters() > SMALL:
            high = min(high, 3e-3 if spec.kind in ("pretrain", "midtrain") else 1e-3)
        if not low <= spec.learning_rate <= scale * high:
            yield Finding("learning rate", "bad", f"learning_rate {spec.learning_rate:g} of a {spec.kind} stage",
                          f"usual are {low:g} to {scale * high:g}; a slip of a decimal?", name)  # fmt: skip


def between(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Between stages: preferences far below fine-tuning, stages that nothing reads."""
    for name, spec in _training(stages):
        before = stages.get(spec.model) if isinstance(getattr(spec, "model", None), str) else None
        adapters = [getattr(one, "adapter", None) is not None for one in (spec, before)]
        if spec.kind == "preference" and getattr(before, "kind", "") == "sft" and adapters[0] == adapters[1]:
            ratio = before.learning_rate / spec.learning_rate  # type: ignore[union-attr]
            if ratio < 2:
                yield Finding("rates between stages", "bad", f"learning_rate {spec.learning_rate:g} after "
                              f"fine-tuning at {before.learning_rate:g}", "5 to 20 times below it is usual", name)  # type: ignore[union-attr]  # fmt: skip
    read = {target for targets in needs_of(stages).values() for target in targets}
    ends = ("report", "eval")
    for name, spec in stages.items():
        if name not in read and spec.kind not in ends and any(one.kind in ends for one in stages.values()):
            yield Finding("unread stage", "note", f"{spec.kind} is read by no other stage and shown in no report",
                          "name it in report.stages, or remove it", name)  # fmt: skip


def shapes(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Embeddings that eat a small model, odd proportions."""
    for name, spec in stages.items():
        model = getattr(spec, "model", None)
        if not isinstance(model, ModelConfig):
            continue
        share = 1 - model.num_non_embedding_parameters() / model.num_parameters()
        if share > 0.6:
            yield Finding("embeddings", "note", f"embeddings are {share:.0%} of {model.num_parameters():,} parameters",
                          "a smaller vocabulary leaves more for the blocks", name)  # fmt: skip
        if model.hidden_size / model.num_hidden_layers > 256:
            yield Finding("shape", "note", f"{model.num_hidden_layers} layers of width {model.hidden_size}",
                          "published small models are 19 to 128 times as wide as deep", name)  # fmt: skip


def contexts(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Mid-training on rows longer than the model's context, with positions that it has never seen."""
    known: dict[str, int] = {}
    for name, spec in stages.items():
        model = getattr(spec, "model", None)
        own = model.max_position_embeddings if isinstance(model, ModelConfig) else known.get(model or "")
        if spec.kind == "midtrain" and own is not None:
            if spec.sequence_length > own and spec.extension is None:
                yield Finding("context", "bad", f"rows of {spec.sequence_length}, the context of {model} is {own}",
                              "set extension: abf with a larger rope_theta, or yarn", name)  # fmt: skip
            own = max(own, spec.sequence_length)
        if own is not None:
            known[name] = own


def budgets(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Tokens for the size, steps for the warm-up and the checkpoints, epochs."""
    for name, spec in _training(stages):
        plan = plans[name]
        epochs = getattr(spec, "num_train_epochs", None)
        if epochs is not None and epochs > 8:
            yield Finding(
                "epochs", "note", f"num_train_epochs {epochs:g}", "fine-tuning learns by heart after a few", name
            )
        if plan.config is None or plan.model is None:
            continue
        if spec.kind == "pretrain" and plan.tokens < plan.model.num_active_parameters():
            yield Finding("tokens", "note", f"{plan.tokens:,} for {plan.model.num_active_parameters():,} parameters",
                          "20 a parameter are the least that pays (luopan plan)", name)  # fmt: skip
        if plan.config.max_steps >= 500 and plan.config.save_steps > plan.config.max_steps / 2:
            yield Finding("checkpoints", "bad", f"save_steps {plan.config.save_steps} of {plan.config.max_steps} steps",
                          "a crash would cost more than half of the run", name)  # fmt: skip
        warm = plan.config.num_warmup_steps
        if warm > plan.config.max_steps / 2:
            yield Finding(
                "warm-up", "bad", f"{warm} of {plan.config.max_steps} steps warm up", "1 to 10% are usual", name
            )
        if spec.kind == "pretrain" and plan.tokens_per_step < 256:
            yield Finding(
                "batch", "note", f"{plan.tokens_per_step} tokens an update", "gradients will be mostly noise", name
            )


def evaluation(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Trainings whose result nothing measures, test sets that the corpus may hold."""
    for name, spec in _training(stages):
        suite = getattr(spec, "suite", None)
        if spec.kind == "sft" and not (suite and suite.tests) and not spec.test_conversations and spec.corpus is None:
            yield Finding("held out", "bad", "nothing is measured before and after",
                          "set test_conversations: 100, or a suite of tests", name)  # fmt: skip
        if spec.kind in ("grpo", "ppo") and not spec.test_cases:
            yield Finding("held out", "bad", "test_cases 0: a reward that is gamed looks like one that is earned",
                          "hold prompts out: test_cases: 100", name)  # fmt: skip
    for name, spec in stages.items():
        if spec.kind == "curate" and spec.held_out.fraction == 0:
            yield Finding("held out", "bad", "no text is held out", "held_out: {fraction: 0.005}", name)


def rollouts(stages: Mapping[str, Any], plans: Mapping[str, StagePlan]) -> Iterator[Finding]:
    """Sampling that cannot learn."""
    for name, spec in _training(stages):
        if not hasattr(spec, "prompts_per_step"):
            continue
        if not 0.3 <= spec.temperature <= 1.5:
            yield Finding("temperature", "bad", f"answers are sampled at temperature {spec.temperature:g}",
                          "0.6 to 1.2: below, all answers are the same; above, none makes sense", name)  # fmt: skip
        if getattr(spec, "num_generations", 8) < 4:
            yield Finding("group", "note", f"num_generations {spec.num_generations}",
                          "with fewer than 4 most groups are all right or all wrong", name)  # fmt: skip
        if spec.max_completion_length < 8:
            yield Finding("answers", "note", f"max_completion_length {spec.max_completion_length}",
                          "few answers end within it", name)  # fmt: skip
