"""The run of every stage that learns from what the policy itself says: one for all algorithms.

A `Way` says what an algorithm does differently; all else is here: the model is opened and measured, prompts are read,
rewards are tried, the engine samples with the policy's own weights, the ratio is checked, the loop trains, held-out
prompts are answered before, meanwhile and after, and all of it is reported.

    def run(spec, inputs, out):
        return run_rewarded(spec, inputs, out, Way(kind="grpo", collector=collector, loss=loss, summary=summary))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luopan.generate.config import SamplingParams
from luopan.generate.replies import reply_text
from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.report.data import Figure, Picture
from luopan.rl.feed import Collector, OnPolicyFeed, UpdatePlan
from luopan.rl.groups import Sampler
from luopan.rl.held_out import Exam, summary
from luopan.rl.rewards import Rewards
from luopan.rl.samples import rollout_samples
from luopan.rl.watch import Watch, alarms_of
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    Chat,
    check_length,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
)
from luopan.stages.conversations import by_reason
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import (
    SUITE_SEED,
    check_suite,
    samples_of,
    skill_bars,
    suite_after,
    suite_of,
)
from luopan.stages.on_policy import (
    held_out_figures,
    rollout_figures,
    scorer,
    update_plan,
)
from luopan.stages.ratio import assert_ratio_is_one
from luopan.stages.rewarded_report import alarm_notes, figures_of, pictures_of, told_lines
from luopan.stages.rewarding import build_rewards, check_rewards, judge_notes, try_rewards
from luopan.stages.sampling import check_sampler, sampler_of
from luopan.stages.tasks import Tasks, check_tasks, open_tasks
from luopan.train.loop import FitResult, LossFn
from luopan.train.preflight import check_training
from luopan.train.ranks import together
from luopan.train.tracking import read_metrics


@dataclass(frozen=True)
class Setup:
    """What the parts of a way are made from. `extra` is theirs, to keep what one of them made for another."""

    spec: Any
    inputs: Inputs
    out: Workspace
    chat: Chat
    tasks: Tasks
    rewards: Rewards | None
    engine: Sampler
    reference: Decoder | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the rollouts: logs, figures, buffers."""
        return self.out.path / "rollouts"

    @property
    def sampling(self) -> SamplingParams:
        """How answers are sampled in training, and on held-out prompts."""
        return SamplingParams(max_new_tokens=self.spec.max_completion_length, temperature=self.spec.temperature)

    @property
    def plan(self) -> UpdatePlan:
        return update_plan(self.spec, self.chat, self.out.seed)

    def decode(self, tokens: Sequence[int], prompt: Sequence[int]) -> str:
        """The text of an answer, its thinking between tags."""
        return reply_text(self.chat.tokenizer, tokens, prompt)

    def sampler(self, model: Decoder) -> Sampler:
        """What samples with a model's weights."""
        return sampler_of(self.spec, self.chat, self.out, model)

    def scorer(self, model: Decoder) -> Callable[..., list[list[float]]]:
        """Log-probabilities of documents by a model, as the trainer would compute them."""
        return scorer(model, self.spec, self.chat)

    @property
    def exam(self) -> Exam:
        """Held-out prompts, answered as in training."""
        return Exam(
            prompts=self.tasks.held, generate=self.engine.generate, decode=self.decode, rewards=self.rewards,
            sampling=self.sampling, each=self.spec.test_samples, seed=SUITE_SEED,
        )  # fmt: skip


@dataclass(frozen=True)
class Way:
    """What is an algorithm's own. `kind`: of its stage.

    collector: samples and grades. loss: of a batch. summary: a sentence for the report. referenced: whether a frozen
    copy of the input model is kept. model: what is trained, where it is more than the policy (a value model beside it).
    figures, pictures: more for the report, from (setup, before, after, result). payload: writes what later stages may
    want beside the model. rewarded: whether `rewards` are built. checks_ratio: whether documents have `old_logprobs`
    that the trainer must agree with.
    """

    kind: str
    collector: Callable[[Setup], Collector]
    loss: Callable[[Setup], LossFn]
    summary: Callable[[Setup, FitResult], str]
    referenced: Callable[[Any], bool] = lambda spec: False
    model: Callable[[Setup], Any] = lambda setup: setup.chat.model
    figures: Callable[[Setup, Mapping[str, Any], Mapping[str, Any], FitResult], list[Figure]] = lambda *_: []
    pictures: Callable[[Setup, Mapping[str, Any], Mapping[str, Any], FitResult], list[Picture]] = lambda *_: []
    payload: Callable[[Setup], None] = lambda setup: None
    rewarded: bool = True
    checks_ratio: bool = True


def check_rewarded(spec: OnPolicySpec) -> None:
    """A stage's `check`: LuopanError for what is asked for and cannot be had."""
    check_training(spec)
    check_tasks(spec)
    check_rewards(spec)
    check_sampler(spec)
    check_suite(spec.suite)


def set_up(spec: Any, inputs: Inputs, out: Workspace, chat: Chat, way: Way) -> Setup:
    """Prompts read and rewards tried; no model but that of the rewards is opened."""
    tasks = open_tasks(spec, chat, out.seed)
    rewards = None
    if way.rewarded:
        rewards = built = build_rewards(spec, chat, inputs, out)
        tasks.set_aside(together(lambda: try_rewards(built, tasks.prompts)))
    return Setup(spec, inputs, out, chat, tasks, rewards, sampler_of(spec, chat, out))


def with_reference(setup: Setup, way: Way) -> Setup:
    """A copy of the input model that nothing changes, where the way asks for one."""
    if not way.referenced(setup.spec):
        return setup
    reference = open_model(setup.inputs["model"][0], setup.chat.device).model
    reference.requires_grad_(False)
    return replace(setup, reference=reference.eval())


def feed_of(setup: Setup, way: Way) -> OnPolicyFeed:
    """The on-policy feed of a way."""
    return OnPolicyFeed(way.collector(setup), setup.plan, setup.folder)


def run_rewarded(spec: Any, inputs: Inputs, out: Workspace, way: Way) -> dict[str, Any]:
    """A stage's `run`; see the module."""
    chat = open_model(inputs["model"][0], start_device())
    check_length(spec.max_length, chat)
    setup = set_up(spec, inputs, out, chat, way)
    for note in setup.tasks.notes + aside_notes(setup.tasks):
        out.progress.note(note)
    before = out.remember("before", lambda: {**suite_of(inputs["model"][0], chat, spec.suite), **setup.exam.take()})
    setup = with_reference(setup, way)
    trained = replace(chat, model=way.model(setup))
    feed = feed_of(setup, way)
    if way.checks_ratio:
        assert_ratio_is_one(chat, feed, spec, out)
    hooks = [rollout_figures(feed, spec.logging_steps, spec.max_steps, out.path)]
    if spec.eval_rollouts_steps is not None:
        hooks.append(held_out_figures(setup.exam, spec, setup.folder, out.progress.note))
    watch = watched(setup, before)
    result = train(trained, feed, way.loss(setup), spec, out, hooks=hooks, on_log=watch)
    way.payload(setup)
    save_model(chat, out.path)  # before measuring, which may fail
    after = {**suite_after(out.path, chat, spec.suite), **setup.exam.take()}
    return report_run(setup, way, before, after, result)


def watched(setup: Setup, before: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """What hears each line of metrics and says what looks wrong; lines of an earlier sitting are not told again."""
    watch = Watch(setup.spec.max_completion_length)
    for line in ({"step": 0, **summary(before)}, *read_metrics(setup.out.path)):
        watch.look(line)

    def hear(line: Mapping[str, Any]) -> None:
        for alarm in watch.look(line):
            setup.out.progress.note(f"WARNING: {alarm.text}")

    return hear


def aside_notes(tasks: Tasks) -> list[str]:
    """A line where prompts were set aside."""
    if not tasks.aside:
        return []
    where, reason = tasks.aside[0]
    return [f"{len(tasks.aside)} prompts are set aside, such as {where}: {reason}"]


def report_run(
    setup: Setup, way: Way, before: dict[str, Any], after: dict[str, Any], result: FitResult
) -> dict[str, Any]:
    """The stage's part of the report, and the manifest's metrics."""
    spec, out, tasks = setup.spec, setup.out, setup.tasks
    figures = figures_of(spec, before, after) + way.figures(setup, before, after, result)
    pictures: list[Picture] = []
    if spec.suite.tests:
        pictures.append(skill_bars("Held-out skills", before, after, (setup.chat.origin, out.name)))
    lines = told_lines(out.path, before, after, result.steps)
    alarms = alarms_of(lines, spec.max_completion_length)
    read = len(tasks.prompts) + len(tasks.held) + len(tasks.aside)
    report = training_report(
        way.kind,
        out.name,
        setup.chat,
        result,
        spec.max_length,
        notes=[*tasks.notes, *alarm_notes(alarms), *judge_notes(spec, setup.folder)],
        summary=way.summary(setup, result),
        figures=figures,
        pictures=[*pictures, *pictures_of(lines), *way.pictures(setup, before, after, result)],
        samples=[*samples_of(after, out.name), *rollout_samples(setup.folder)],
        set_aside=by_reason(tasks.aside, out.name, "prompts", read),
    )
    write_report(out.path, report)
    return metrics_of(
        figures, **fit_metrics(result), reward=result.last.get("reward"), set_aside=len(tasks.aside), alarms=len(alarms)
    )


def labels(spec: OnPolicySpec) -> str:
    """The tasks, for a sentence."""
    return ", ".join(dict.fromkeys(task.label for task in spec.tasks))
