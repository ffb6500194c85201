"""Distillation: a small model learns what a larger one finds likely, on its own answers or on given ones.

The run is that of all stages that learn from rollouts (`stages.rewarded`), without rewards; task verifiers, where there
are some, only measure. The teacher is another stage, in memory or asked once and cached for the rows of data, or a
server. Shown before and after: the held-out suite, and the divergence from the teacher on the student's own answers;
beside them what the teacher itself scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

from luopan.evals.skills import standard_error
from luopan.recipe.distill_specs import DistillSpec
from luopan.report.data import Figure
from luopan.rl.distill import Annotate, DistillCollector, DistillSettings, answer_doc
from luopan.rl.feed import Collector
from luopan.rl.held_out import Exam
from luopan.rl.line import Line
from luopan.rl.packing import lay_out, pack_units
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.rl.rollouts import Rollout
from luopan.rl.teacher import EndpointTeacher, LocalTeacher, Teacher, check_same_tokens, with_sampled, with_top
from luopan.rl.teacher_cache import cache_key, cached_top
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD, Chat, check_length, open_model, start_device
from luopan.stages.conversations import chat_data
from luopan.stages.handover import sources_fingerprint
from luopan.stages.measure import SUITE_SEED, check_skill, check_suite, engine_of
from luopan.stages.on_policy import PreciseEngine
from luopan.stages.online_dpo import answering
from luopan.stages.rewarded import Setup, Way, labels, run_rewarded
from luopan.stages.rewarded_report import known
from luopan.stages.tasks import check_tasks, tasks_fingerprint
from luopan.tokens.batch import Doc
from luopan.tokens.tokenizer import load_tokenizer
from luopan.train.device import autocast
from luopan.train.distill_loss import distill_loss, sampled_distill_loss
from luopan.train.loop import FitResult, LossFn
from luopan.train.preflight import check_training

MEASURED = 64  # held-out prompts on which the divergence is measured


class Distill:
    """See the module."""

    kind: ClassVar[str] = "distill"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: DistillSpec) -> str:
        return tasks_fingerprint(spec) + sources_fingerprint(spec.data)

    @staticmethod
    def check(spec: DistillSpec) -> None:
        check_training(spec)
        check_tasks(spec)
        for source in spec.data:
            if source.skill is not None:
                check_skill(source.skill, source.options, source.thinking)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: DistillSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        at_hand: Chat | None = None
        student = inputs["model"][0]
        tokenizer = load_tokenizer(student.model_path)
        if "teacher" in inputs:
            teacher = inputs["teacher"][0]
            names = (student.manifest.name, teacher.manifest.name)
            check_same_tokens(tokenizer, load_tokenizer(teacher.model_path), names)
            at_hand = opened = open_model(teacher, start_device())
            check_length(spec.max_length, opened)
        else:
            _endpoint(spec, len(tokenizer), out).check(tokenizer)
        # Rows of data were not sampled, so there is nothing to compare the trainer with.
        return run_rewarded(spec, inputs, out, way(at_hand, checks_ratio=spec.lmbda == 1))


@dataclass(frozen=True)
class Source:
    """Where the teacher's opinion comes from: a model in memory that reads the batch (`whole`), or columns that
    `teacher` fills; `name` is what a cache knows it by."""

    teacher: Teacher
    whole: Chat | None
    name: Any


def way(teacher: Chat | None, *, checks_ratio: bool) -> Way:
    """Distillation from a teacher in memory, or from the one behind the spec's endpoint."""
    if teacher is not None:
        teacher.model.eval().requires_grad_(False)
    return Way(
        kind="distill",
        collector=partial(collector, teacher),
        loss=partial(loss, teacher),
        summary=summary,
        figures=partial(figures, teacher),
        rewarded=False,
        checks_ratio=checks_ratio,
    )


def source_of(setup: Setup, teacher: Chat | None) -> Source:
    """The teacher as it is asked."""
    spec: DistillSpec = setup.spec
    width = setup.chat.model.config.vocab_size
    if teacher is None:
        assert spec.teacher_endpoint is not None
        endpoint = spec.teacher_endpoint
        return Source(_endpoint(spec, width, setup.out), None, [endpoint.base_url, endpoint.model])
    local = LocalTeacher(
        model=teacher.model,
        k=spec.k or 1,
        width=min(width, teacher.model.config.vocab_size),
        temperature=spec.temperature,
        max_length=spec.max_length,
        pad_id=setup.chat.pad_id,
        precision=spec.precision,
    )
    name = setup.inputs["teacher"][0].manifest.content if "teacher" in setup.inputs else teacher.origin
    return Source(local, teacher if spec.loss_type == "jsd" and spec.k is None else None, name)


def _endpoint(spec: DistillSpec, width: int, out: Workspace) -> EndpointTeacher:
    endpoint = spec.teacher_endpoint
    assert endpoint is not None
    knobs = endpoint.model_dump(exclude={"model"})
    return EndpointTeacher(Line(**knobs, say=out.progress.note), endpoint.model, spec.k or 0, width)


def annotate_of(setup: Setup, source: Source) -> Annotate | None:
    """Who fills the teacher's columns of sampled answers; nobody where the loss asks the teacher itself."""
    if source.whole is not None:
        return None
    if setup.spec.loss_type == "jsd":
        return lambda docs: with_top(docs, source.teacher.top(docs))
    return lambda docs: with_sampled(docs, source.teacher.sampled(docs))


def collector(teacher: Chat | None, setup: Setup) -> Collector:
    """Answers and rows. The divergence and the teacher's own score are measured here, before the first update."""
    spec: DistillSpec = setup.spec
    out, source = setup.out, source_of(setup, teacher)
    setup.extra["before"] = out.remember("teacher", lambda: measured(setup, source, teacher))
    answers = None
    if spec.answered:
        asking = replace(setup, spec=spec.model_copy(update={"prompts_per_step": spec.answered}), rewards=judged(setup))
        answers = answering(asking, 1, 0).drawn
    return DistillCollector(
        answers=answers,
        data=data_docs(setup, source) if spec.data else [],
        annotate=annotate_of(setup, source),
        settings=DistillSettings(
            rows=spec.prompts_per_step - spec.answered,
            seed=out.seed,
            scores=spec.lmbda == 1,
            graded=graded(spec),
        ),
        folder=setup.folder,
    )


def graded(spec: DistillSpec) -> bool:
    """Whether every task can say what is right."""
    return all(task.graded for task in spec.tasks)


def judged(setup: Setup) -> Rewards:
    """The verifiers of the tasks as figures to look at: nothing is learnt from them. 0 where a task has none."""
    score = each(lambda answer: answer.prompt.grade(answer.text)) if graded(setup.spec) else _nought
    # Not required: what cannot be graded can be learnt from here all the same.
    return Rewards((Part("verifier", 1.0, score, required=False),), truncation="keep")


def _nought(answers: Sequence[Answer]) -> list[float | None]:
    return [0.0] * len(answers)


def data_docs(setup: Setup, source: Source) -> list[Doc]:
    """The rows of data, with the teacher's likeliest tokens where they are kept; asked for once and cached."""
    spec, out = setup.spec, setup.out
    read = chat_data(setup.chat.tokenizer, spec.data, seed=out.seed, max_length=spec.max_length)
    setup.tasks.aside += read.set_aside
    if read.set_aside:
        where, reason = read.set_aside[0]
        out.progress.note(f"{len(read.set_aside)} conversations are set aside, such as {where}: {reason}")
    docs = [replace(example, per_token={}, fields={}) for example in read.examples]
    if source.whole is not None:
        return docs
    folder = out.cache / "teacher" / cache_key(source.name, docs, spec.k, spec.temperature)
    out.progress.start(f"{out.name}, teacher", len(docs))
    found = cached_top(source.teacher.top, docs, folder, advance=out.progress.update)
    out.progress.finish()
    return with_top(docs, found)


def loss(teacher: Chat | None, setup: Setup) -> LossFn:
    """What compares student and teacher."""
    spec: DistillSpec = setup.spec
    if spec.loss_type == "sampled_reverse_kl":
        return partial(sampled_distill_loss, temperature=spec.temperature)
    model = teacher.model if teacher is not None and spec.k is None else None
    return partial(distill_loss, teacher=model, beta=spec.beta, temperature=spec.temperature, rest=spec.rest)


@torch.no_grad()
def measured(setup: Setup, source: Source, teacher: Chat | None) -> dict[str, Any]:
    """The reverse divergence from the teacher on the student's answers to held-out prompts, and the teacher's score."""
    found: dict[str, Any] = {"divergence": divergence(setup, source, teacher)}
    if teacher is not None and setup.tasks.held:
        engine = PreciseEngine(engine_of(teacher), setup.chat.device, setup.spec.precision)
        exam: Exam = replace(setup.exam, generate=engine.generate)
        found["teacher"] = known(exam.take()["sampled"])
    return found


@torch.no_grad()
def divergence(setup: Setup, source: Source, teacher: Chat | None) -> float | None:
    """KL(student || teacher) per token of the student's answers to held-out prompts; None without prompts."""
    spec, chat = setup.spec, setup.chat
    prompts = setup.tasks.held[:MEASURED]
    if not prompts:
        return None
    done = setup.engine.generate([prompt.input_ids for prompt in prompts], setup.sampling, seed=SUITE_SEED)
    docs = [
        answer_doc(prompt, Rollout(tuple(one.tokens), tuple(one.logprobs), "", one.finish_reason, None), scores=True)
        for prompt, one in zip(prompts, done, strict=True)
        if one.tokens
    ]
    if not docs:
        return None
    look: Any = partial(distill_loss, beta=1.0, temperature=spec.temperature, rest=spec.rest)
    if teacher is not None:  # at hand: all tokens are compared, whatever is learnt from
        look = partial(look, teacher=teacher.model)
    elif spec.loss_type == "jsd":
        look, docs = partial(look, teacher=None), with_top(docs, source.teacher.top(docs))
    else:
        look, docs = loss(teacher, setup), with_sampled(docs, source.teacher.sampled(docs))
    total, count = 0.0, 0.0
    training = chat.model.training
    chat.model.eval()
    for row in pack_units([[doc] for doc in docs], spec.max_length, share_prompts=False):
        with autocast(chat.device, spec.precision):
            term = look(chat.model, lay_out([row], chat.pad_id, one_row=False, share_prompts=False).to(chat.device))
        sums, tokens = term.metrics["reverse_kl" if "reverse_kl" in term.metrics else "kl"]
        total, count = total + float(sums), count + float(tokens)
    chat.model.train(training)
    return total / count


def figures(
    teacher: Chat | None, setup: Setup, before: Mapping[str, Any], after: Mapping[str, Any], result: FitResult
) -> list[Figure]:
    """The divergence before and after, and what the teacher itself scores."""
    spec: DistillSpec = setup.spec
    first = setup.extra["before"]
    found = []
    if first["divergence"] is not None:
        far = "sampled tokens, an estimate" if spec.k is None else f"its {spec.k} likeliest tokens"
        of = far if teacher is None else "all tokens"
        found.append(
            Figure(
                name="divergence from the teacher", before=first["divergence"],
                after=divergence(setup, source_of(setup, teacher), teacher), unit="nats", higher_is_better=False,
                help=f"KL(student || teacher) per token of the student's own answers to held-out prompts, over {of}",
            )
        )  # fmt: skip
    if first.get("teacher"):
        scores = first["teacher"]
        found.append(
            Figure(
                name="the teacher itself, sampled", after=sum(scores) / len(scores), unit="%", n=len(scores),
                stderr_after=standard_error(scores), headline=False,
                help="verifier accuracy on the same held-out prompts, sampled in the same way",
            )
        )  # fmt: skip
    return found


def summary(setup: Setup, result: FitResult) -> str:
    """A sentence for the report."""
    spec: DistillSpec = setup.spec
    endpoint = spec.teacher_endpoint
    name = spec.teacher if endpoint is None else f"{endpoint.model} at {endpoint.base_url}"
    compared = {0.0: "forward KL", 1.0: "reverse KL"}.get(spec.beta, f"JSD, beta {spec.beta:g}")
    how = compared if spec.loss_type == "jsd" else "reverse KL on sampled tokens"
    known_by = "" if spec.k is None else f" over the teacher's {spec.k} likeliest tokens"
    return (
        f"{result.steps} updates towards {name} by {how}{known_by}; of {spec.prompts_per_step} texts a generation "
        f"{spec.answered} are the student's own answers to {labels(spec)}."
    )
