"""Which class runs a stage of which kind; imported when first asked for, so that a recipe loads without torch."""

from __future__ import annotations

import importlib
from typing import Any

from luopan.errors import RecipeError

STAGES = {
    "curate": "luopan.stages.curate:Curate",
    "tokenizer": "luopan.stages.tokenizer:Tokenizer",
    "pretrain": "luopan.stages.pretrain:Pretrain",
    "midtrain": "luopan.stages.midtrain:Midtrain",
    "import": "luopan.stages.imported:Imported",
    "sft": "luopan.stages.sft:Sft",
    "preference": "luopan.stages.preference:Preference",
    "reward": "luopan.stages.reward:Reward",
    "grpo": "luopan.stages.grpo:Grpo",
    "ppo": "luopan.stages.ppo:Ppo",
    "online_dpo": "luopan.stages.online_dpo:OnlineDpo",
    "rejection": "luopan.stages.rejection:Rejection",
    "distill": "luopan.stages.distill:Distill",
    "synthesize": "luopan.stages.synthesize:Synthesize",
    "merge": "luopan.stages.merge:Merge",
    "mixture_ablation": "luopan.stages.mixture_ablation:MixtureAblation",
    "eval": "luopan.stages.evaluate:Evaluate",
    "report": "luopan.stages.report:Report",
}


def stage_class(kind: str) -> Any:
    """The stage class of a kind; raises RecipeError for a kind that there is not."""
    if kind not in STAGES:
        raise RecipeError(f"unknown stage kind {kind!r}", hint=f"known kinds: {', '.join(STAGES)}")
    module, _, name = STAGES[kind].partition(":")
    return getattr(importlib.import_module(module), name)
