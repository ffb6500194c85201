"""From what a recipe says of rewards to `rl.rewards.Rewards`."""

from __future__ import annotations

from luopan.evals.verifiers import thinking_format
from luopan.recipe.rl_specs import GrpoSpec, OnPolicySpec
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import Chat


def build_rewards(spec: OnPolicySpec, chat: Chat, inputs: Inputs, out: Workspace) -> Rewards:
    """The verifier of each prompt's task, and what the recipe adds to it."""
    extra = spec.format_reward if isinstance(spec, GrpoSpec) else 0.0
    return Rewards((Part("verifier", 1.0, each(verifier)), Part("format", extra, each(well_formed))))


def verifier(answer: Answer) -> float | None:
    """The verdict of the task's own verifier."""
    return answer.prompt.grade(answer.text)


def well_formed(answer: Answer) -> float | None:
    """1 for thinking as it was asked for, 0 for any other."""
    return thinking_format(answer.text, enable_thinking=answer.prompt.thinking).score
