"""Group-relative policy optimisation: the model answers, a verifier grades, what beat its group is made likelier.

Rewards come from the task's own verifier; a small reward for a well-formed thinking block may be added. Held-out cases
are graded greedily before and after; reward and length of the answers are plotted, because a length that runs away is
the first sign of a policy that games its reward.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from luopan.evals.skills import standard_error
from luopan.generate.config import SamplingParams
from luopan.generate.replies import reply_text
from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import GrpoSpec
from luopan.report.data import Figure
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.groups import GroupCollector, RolloutSettings
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    check_length,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
)
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import (
    check_skill,
    check_suite,
    engine_of,
    samples_of,
    skill_bars,
    suite_after,
    suite_figures,
    suite_of,
)
from luopan.stages.on_policy import (
    PreciseEngine,
    assert_ratio_is_one,
    check_fits,
    rollout_figures,
    sampled_accuracy,
    scorer,
    training_prompts,
    update_plan,
)
from luopan.stages.rewarding import build_rewards
from luopan.train.losses import policy_loss
from luopan.train.preflight import check_training


class Grpo:
    """See the module."""

    kind: ClassVar[str] = "grpo"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: GrpoSpec) -> str:
        return ""

    @staticmethod
    def check(spec: GrpoSpec) -> None:
        check_training(spec)
        for task in spec.tasks:
            check_skill(task.skill, task.options, task.thinking)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: GrpoSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        chat = open_model(inputs["model"][0], device)
        check_length(spec.max_length, chat)
        before = out.remember(
            "before", lambda: {**suite_of(inputs["model"][0], chat, spec.suite), **sampled_accuracy(spec, chat)}
        )
        reference = open_model(inputs["model"][0], device).model if spec.beta else None
        feed = build_feed(spec, chat, out, reference, inputs)
        assert_ratio_is_one(chat, feed, spec, out)
        knobs: dict[str, Any] = {"epsilon": spec.epsilon, "beta": spec.beta, "loss_type": spec.loss_type}
        if spec.epsilon_high is not None:
            knobs["epsilon_high"] = spec.epsilon_high
        if spec.loss_type == "dr_grpo":
            knobs["max_completion_length"] = spec.max_completion_length
        loss = partial(policy_loss, temperature=spec.temperature, entropy=True, **knobs)
        hooks = [rollout_figures(feed, spec.logging_steps, spec.max_steps, out.path)]
        result = train(chat, feed, loss, spec, out, hooks=hooks)
        after = {**suite_after(out.path, chat, spec.suite), **sampled_accuracy(spec, chat)}
        save_model(chat, out.path)
        figures = _figures(spec, before, after, result.last)
        report = training_report(
            "grpo",
            out.name,
            chat,
            result,
            spec.max_length,
            summary=f"{result.steps} updates on {spec.num_generations} answers to {spec.prompts_per_step} prompts each "
            f"of {', '.join(task.skill for task in spec.tasks)}, graded by their verifiers.",
            figures=figures,
            pictures=[skill_bars("Held-out skills", before, after, (chat.origin, out.name))]
            if spec.suite.tests
            else [],
            samples=samples_of(after, out.name),
        )
        write_report(out.path, report)
        return metrics_of(figures, **fit_metrics(result), reward=result.last.get("reward"))


def build_feed(
    spec: GrpoSpec, chat: Chat, out: Workspace, reference: Decoder | None = None, inputs: Inputs | None = None
) -> OnPolicyFeed:
    """Prompts of the tasks in their shares, the verifiers as rewards, the engine on the policy's own weights."""
    prompts = training_prompts(spec, chat, out.seed)
    check_fits(spec, prompts)
    collector = GroupCollector(
        engine=PreciseEngine(engine_of(chat), chat.device, spec.precision),
        decode=partial(reply_text, chat.tokenizer),
        prompts=prompts,
        rewards=build_rewards(spec, chat, inputs or {}, out),
        settings=RolloutSettings(
            prompts_per_step=spec.prompts_per_step,
            num_generations=spec.num_generations,
            sampling=SamplingParams(max_new_tokens=spec.max_completion_length, temperature=spec.temperature),
            scale_rewards=spec.scale_rewards,
            resample_rounds=spec.resample_rounds,
            seed=out.seed,
        ),
        folder=out.path / "rollouts",
        reference=None if reference is None else scorer(reference, spec, chat),
    )
    return OnPolicyFeed(collector, update_plan(spec, chat, out.seed), out.path / "rollouts")


def _figures(spec: GrpoSpec, before: dict[str, Any], after: dict[str, Any], last: dict[str, Any]) -> list[Figure]:
    trained = {task.skill for task in spec.tasks}
    headline = [test.name for test in spec.suite.tests if test.skill in trained]
    figures = suite_figures(before, after, headline=(*headline, "skills, mean"))
    old, new = before["sampled"], after["sampled"]
    if new:
        figures.insert(
            0,
            Figure(name="verifier accuracy, sampled", before=sum(old) / len(old), after=sum(new) / len(new), unit="%",
                   stderr_before=standard_error(old), stderr_after=standard_error(new), n=len(new),
                   help=f"held-out prompts of the tasks, mean of {spec.num_generations} answers at temperature "
                   f"{spec.temperature:g}, as in training"),
        )  # fmt: skip
    tokens = [(result["total"] or {}).get("mean_tokens") for result in (before, after)]
    figures.append(
        Figure(
            name="answer length",
            before=tokens[0],
            after=tokens[1],
            unit="tokens",
            higher_is_better=None,
            headline=False,
        )
    )
    return figures
