"""Which mixture to train on: a small proxy is trained on each candidate, with several seeds, and measured by source.

All candidates share the proxy, its settings and the seeds, and differ in the mixture alone. Each training is a run of
its own below `runs/`, gone on with where it stopped; one that is measured keeps its curve and its figures and gives its
checkpoints up. The verdict (`mixture_verdict`) names a best mixture only where it stands above the noise of the seeds.

Limit: what is best for a proxy on a few tokens need not be best for the model that is meant; sources that are repeated
more often in the long run are the first to tell them apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any, ClassVar

import torch

from luopan.artifacts import Artifact, atomic_write_json, stable_hash
from luopan.errors import RecipeError
from luopan.model.decoder import Decoder
from luopan.recipe.mixture_specs import MixtureAblationSpec
from luopan.report.data import StageReport
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import Chat, check_vocabulary, start_device, training_flops
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.mixture_plan import TextMixture, open_mixture
from luopan.stages.mixture_report import ablation_figures, pictures, tables
from luopan.stages.mixture_verdict import Verdict, judge
from luopan.stages.text import TextFeed, held_out, mean_bits, text_bits
from luopan.tokens.tokenizer import load_tokenizer
from luopan.train.loop import fit
from luopan.train.preflight import check_training
from luopan.train.progress import Progress
from luopan.train.ranks import from_leader, leader_first, leave_to_leader, rank
from luopan.train.schedule import first_row

Results = dict[str, list[dict[str, Any]]]
"""For each candidate what was measured, seed by seed."""


class MixtureAblation:
    """See the module."""

    kind: ClassVar[str] = "mixture_ablation"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("ablation.json",)

    @staticmethod
    def fingerprint(spec: MixtureAblationSpec) -> str:
        return ""

    @staticmethod
    def check(spec: MixtureAblationSpec) -> None:
        check_training(spec)

    @staticmethod
    def run(spec: MixtureAblationSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        out = replace(out, progress=EachOnce(out.progress))
        corpus = inputs["corpus"][0]
        tokenizer = load_tokenizer(inputs["tokenizer"][0].tokenizer_path)
        check_vocabulary(spec.model.vocab_size, tokenizer, out.name)
        check_target(spec, corpus)
        mixtures = open_candidates(spec, corpus, tokenizer, out)
        results: Results = {name: [] for name in mixtures}
        for seed in range(spec.seeds):  # seed by seed, so that a run that is stopped has compared something
            for name, mixture in mixtures.items():
                done = sum(len(some) for some in results.values())
                if rank() == 0:
                    out.progress.note(f"training {done + 1} of {spec.seeds * len(mixtures)}: {name}, seed {seed}")
                results[name].append(trained(spec, mixture, corpus, tokenizer, device, out, name, seed))
        leave_to_leader()
        scores = {name: [score(one["bits"], spec.target) for one in some] for name, some in results.items()}
        verdict = judge(scores, spec.confidence)
        out.progress.note(verdict.text())
        figures = ablation_figures(scores, verdict)
        atomic_write_json(out.path / "ablation.json", as_json(spec, mixtures, results, scores, verdict))
        tokens = sum(one["tokens"] for some in results.values() for one in some)
        write_report(
            out.path,
            StageReport(
                kind="mixture_ablation",
                name=out.name,
                summary=verdict.text(),
                figures=figures,
                pictures=pictures(out.path / "runs", mixtures, results),
                tables=tables(spec, mixtures, results, scores, verdict),
                tokens=tokens,
                flops=training_flops(Decoder(spec.model), tokens, spec.sequence_length),
                parameters=spec.model.num_parameters(),
            ),
        )
        means = {name: fmean(values) for name, values in scores.items()}
        return metrics_of(figures, best=verdict.best, clear=verdict.clear, bits_per_byte=means, tokens=tokens)


class EachOnce:
    """A progress that says each note once: what every training says of itself in the same words is said by the
    first."""

    def __init__(self, progress: Progress) -> None:
        self.start, self.update, self.finish = progress.start, progress.update, progress.finish
        self.say = progress.note
        self.said: set[str] = set()

    def note(self, text: str) -> None:
        """Pass on what is new."""
        if text not in self.said:
            self.said.add(text)
            self.say(text)


def check_target(spec: MixtureAblationSpec, corpus: Artifact) -> None:
    """RecipeError for a source in `target` that nothing is held out of."""
    there = list(held_out(corpus, 1))
    missing = [name for name in spec.target or () if name not in there]
    if missing:
        raise RecipeError(
            f"target names {', '.join(missing)}, of which the corpus holds nothing out",
            hint=f"It has {', '.join(there)}.",
        )


def open_candidates(
    spec: MixtureAblationSpec, corpus: Artifact, tokenizer: Any, out: Workspace
) -> dict[str, TextMixture]:
    """Every candidate's mixture over the same shards, with its plan told."""
    rows = first_row(spec, spec.max_steps)
    found = {}
    for name, candidate in spec.candidates.items():
        try:
            found[name] = open_mixture(corpus, tokenizer, out.path / "shards", candidate, rows, spec.sequence_length)
        except RecipeError as error:
            raise RecipeError(f"candidates.{name}: {error.message}", hint=error.hint) from error
        if rank() == 0:
            out.progress.note(f"{name}. {found[name].plan.text()}")
    return found


def trained(
    spec: MixtureAblationSpec,
    mixture: TextMixture,
    corpus: Artifact,
    tokenizer: Any,
    device: torch.device,
    out: Workspace,
    name: str,
    seed: int,
) -> dict[str, Any]:
    """One training, from wherever it stands, measured: bits per byte of each source, tokens, seconds."""
    key, folder = f"result-{name}-{seed}", out.path / "runs" / f"{name}-{seed}"
    measured: dict[str, Any] = {}
    if not from_leader((out.path / f"{key}.json").is_file()):
        own = int(stable_hash([out.seed, "mixture ablation", seed])[:8], 16) & 0x7FFFFFFF  # candidates share it
        model = Decoder(spec.model)
        model.reset_parameters(own)
        chat = Chat(model.to(device), tokenizer, device, name)
        feed, loss = TextFeed(mixture.rows(own), spec), mixture.loss(spec.z_loss_coef)
        result = fit(
            model, feed, loss, spec, folder, device=device, seed=own, progress=out.progress, stop_at=out.stop_at
        )
        measured = {
            "seed": own,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 2),
            "skipped_steps": result.skipped_steps,
            "loss": result.last.get("loss"),
        }
        if rank() == 0:  # the others wait in `remember`
            measured["bits"] = text_bits(chat, corpus, spec.eval_bytes, spec.sequence_length)
    found: dict[str, Any] = out.remember(key, lambda: measured)
    leader_first(lambda: shutil.rmtree(folder / "checkpoints", ignore_errors=True))
    return found


def score(bits: Mapping[str, float], target: Mapping[str, float] | None) -> float:
    """The figure that the verdict is about: mean bits per byte over the sources, by `target`'s weights."""
    mean = mean_bits(bits, target)
    assert mean is not None, "check_target has seen to it"
    return mean


def as_json(
    spec: MixtureAblationSpec,
    mixtures: Mapping[str, TextMixture],
    results: Results,
    scores: Mapping[str, list[float]],
    verdict: Verdict,
) -> dict[str, Any]:
    """Everything that was found, for programs."""
    return {
        "verdict": verdict.plain(),
        "target": spec.target,
        "candidates": {
            name: {
                "asked": spec.candidates[name].model_dump(mode="json", exclude_none=True),
                "shares": {part.name: part.share for part in mixture.plan.sources},
                "epochs": {part.name: part.epochs for part in mixture.plan.sources},
                "score": {"mean": fmean(scores[name]), "sd": stdev(scores[name]), "seeds": scores[name]},
                "runs": results[name],
            }
            for name, mixture in mixtures.items()
        },
    }
