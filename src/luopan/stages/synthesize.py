"""Synthetic data: one of the pipelines of `luopan.synth` over a server or a model of the run.

Leaves `rows.jsonl` (what `sft` and `preference` read, each row with its provenance), `rejected.jsonl` (the rows that a
check took out, with the reason) and `replies.jsonl` (every reply, by the hash of its request: a run that goes on asks
for none of them again). A server that is away stops the run with all that was heard kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from luopan.artifacts import Artifact, atomic_write_text
from luopan.errors import DataError, Interrupted
from luopan.recipe.sampler_spec import EndpointSpec
from luopan.recipe.synth_specs import IdentitySpec, IfThinkSpec, PairsSpec, SelfInstructSpec, SynthesizeSpec
from luopan.rl.judge import bill
from luopan.rl.line import Line
from luopan.stages.base import Inputs, Workspace
from luopan.stages.handover import file_fingerprint, metrics_of, sources_fingerprint, write_report
from luopan.stages.rewarding import judge_of
from luopan.stages.synth_prompts import (
    check_ifeval,
    check_questions,
    first_questions,
    pair_questions,
    seed_instructions,
)
from luopan.stages.synth_report import report_of
from luopan.synth import identity, ifthink, pairs, self_instruct
from luopan.synth.harvest import Harvest, Origin
from luopan.synth.journal import Asker, Journal
from luopan.synth.speaker import EndpointSpeaker, LocalSpeaker, Speaker
from luopan.train.interrupt import DEADLINE_CODE

ROWS, REJECTED = "rows.jsonl", "rejected.jsonl"
VERSIONS = {
    "self_instruct": self_instruct.VERSION,
    "identity": identity.VERSION,
    "pairs": pairs.VERSION,
    "ifthink": ifthink.VERSION,
}


class Synthesize:
    """See the module."""

    kind: ClassVar[str] = "synthesize"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = (ROWS,)

    @staticmethod
    def fingerprint(spec: SynthesizeSpec) -> str:
        sets = spec.decontaminate.sets.values() if spec.decontaminate else ()
        return read_fingerprint(spec) + file_fingerprint(
            str(file.path) for given in sets for file in set_files_of(given)
        )

    @staticmethod
    def check(spec: SynthesizeSpec) -> None:
        for endpoint in (spec.teacher_endpoint, spec.weak_endpoint):
            if endpoint is not None:
                line_of(endpoint, None)
        if isinstance(spec.pipeline, IfThinkSpec):
            check_ifeval()
        if isinstance(spec.pipeline, PairsSpec):
            check_questions(spec.pipeline)
            if spec.pipeline.judge is not None:
                judge_of(spec.pipeline.judge, None)

    @staticmethod
    def run(spec: SynthesizeSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        journal = Journal(out.path)
        harvest = Harvest(
            Origin(spec.pipeline.kind, VERSIONS[spec.pipeline.kind], out.seed, software()),
            spec.dedup,
            spec.decontaminate,
        )
        out.progress.start(out.name, None)
        teacher = asker_of(spec.teacher_endpoint, inputs.get("teacher", ()), journal, out)
        assert teacher is not None
        weak = asker_of(spec.weak_endpoint, inputs.get("weak", ()), journal, out)
        run_pipeline(spec, teacher, weak, harvest, out)
        out.progress.finish()
        write_rows(harvest.rows, out, ROWS)
        write_rows(harvest.rejected, out, REJECTED)
        if not harvest.rows:
            first = harvest.rejected[0] if harvest.rejected else {"check": "nothing", "reason": "nothing was asked"}
            raise DataError(
                f"not one row is left; the first was rejected by {first['check']}: {first['reason']}",
                where=out.path / REJECTED,
                hint="Look at replies.jsonl; another teacher, prompt or limit may help.",
            )
        report = report_of(spec, out.name, harvest, journal)
        for note in report.notes:
            out.progress.note(note.text)
        write_report(out.path, report)
        asked = [one for one in (teacher, weak) if one is not None]
        return metrics_of(
            report.figures,
            rows=len(harvest.rows),
            rejected=len(harvest.rejected),
            calls=sum(one.asked for one in asked),
            remembered=sum(one.remembered for one in asked),
        )


def run_pipeline(spec: SynthesizeSpec, teacher: Asker, weak: Asker | None, harvest: Harvest, out: Workspace) -> None:
    """Fill the harvest."""
    config = spec.pipeline
    if isinstance(config, SelfInstructSpec):
        seeds = seed_instructions(config.seeds, harvest.notes)
        self_instruct.self_instruct(config, seeds, spec.sampling, teacher, harvest)
    elif isinstance(config, IdentitySpec):
        identity.identity(config, spec.sampling, teacher, harvest)
    elif isinstance(config, IfThinkSpec):
        firsts = first_questions(config, out.seed, harvest.notes)
        ifthink.ifthink(config, firsts, spec.sampling, teacher, harvest)
    else:
        questions = pair_questions(config, out.seed, harvest.notes)
        grader = None
        if config.judge is not None:
            grader = pairs.by_judge(judge_of(config.judge, out))
        elif config.grade is not None:
            grader = pairs.by_verifier
        pairs.pairs(config, questions, spec.sampling, teacher, weak, grader, harvest)
        if config.judge is not None:
            harvest.notes.append(bill(out.path / "rollouts", config.judge.name))


def asker_of(
    endpoint: EndpointSpec | None, inputs: Sequence[Artifact], journal: Journal, out: Workspace
) -> Asker | None:
    """Who answers: a server, or the model of a stage; None where neither is named."""
    if endpoint is None and not inputs:
        return None
    speaker: Speaker
    if endpoint is not None:
        speaker = EndpointSpeaker(line_of(endpoint, out), endpoint.model, endpoint.extra)
    else:
        from luopan.generate.text import TextGenerator
        from luopan.stages.common import open_model, start_device

        chat = open_model(inputs[0], start_device())
        speaker = LocalSpeaker(TextGenerator(chat.model, chat.tokenizer), chat.origin)

    def pause(asked: int) -> None:
        out.progress.update(len(journal.known))
        if out.stop_at is not None and time.monotonic() >= out.stop_at:
            error = Interrupted(
                f"the time given with --stop-after is up; {len(journal.known):,} replies are kept",
                hint="Run the same command again to go on.",
            )
            error.exit_code = DEADLINE_CODE
            raise error

    return Asker(speaker, journal, pause)


def line_of(endpoint: EndpointSpec, out: Workspace | None) -> Line:
    """The line to a server. RecipeError for an address that cannot be one."""
    say = None if out is None else out.progress.note
    return Line(
        endpoint.base_url, endpoint.api_key_env, endpoint.timeout, endpoint.patience, endpoint.concurrency, say=say
    )


def write_rows(rows: Sequence[Mapping[str, Any]], out: Workspace, name: str) -> None:
    """One object a line."""
    atomic_write_text(out.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_fingerprint(spec: SynthesizeSpec) -> str:
    """A hash over the user's rows that the pipeline reads."""
    config = spec.pipeline
    if isinstance(config, SelfInstructSpec):
        return sources_fingerprint(config.seeds)
    if isinstance(config, IfThinkSpec):
        return sources_fingerprint(config.data)
    if isinstance(config, PairsSpec):
        return sources_fingerprint(task.source for task in config.tasks if task.skill is None)
    return ""


def set_files_of(given: Any) -> Any:
    """The files of an evaluation set."""
    from luopan.corpus.dedup.eval_sets import set_files

    return set_files(given)


def software() -> str:
    """What made a row."""
    try:
        return f"luopan {version('luopan')}"
    except PackageNotFoundError:
        return "luopan"
