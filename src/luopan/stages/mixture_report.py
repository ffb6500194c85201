"""What an ablation of mixtures shows: figures, pictures and tables from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from luopan.recipe.mixture_specs import MixtureAblationSpec
from luopan.report.data import BarChart, Bars, Figure, Line, LineChart, Mixture, Picture, Table, series_from_metrics
from luopan.stages.mixture_plan import TextMixture
from luopan.stages.mixture_verdict import Verdict, judge
from luopan.train.tracking import read_metrics

MEAN = "mean"


def ablation_figures(scores: Mapping[str, Sequence[float]], verdict: Verdict) -> list[Figure]:
    """The baseline (the first candidate) against the best."""
    first, best = next(iter(scores)), verdict.best
    return [
        Figure(
            name="bits per byte, best mixture",
            before=fmean(scores[first]),
            after=fmean(scores[best]),
            stderr_before=stderr(scores[first]),
            stderr_after=stderr(scores[best]),
            unit="bits/byte",
            higher_is_better=False,
            n=verdict.seeds,
            help=f"held-out text; before: {first}, after: {best}"
            + ("" if verdict.clear else ", not above the noise of the seeds"),
        )
    ]


def by_domain(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """{domain: {candidate: bits per byte, seed by seed}}."""
    domains = list(next(iter(results.values()))[0]["bits"])
    return {
        domain: {name: [one["bits"][domain] for one in some] for name, some in results.items()} for domain in domains
    }


def pictures(
    runs: Path, mixtures: Mapping[str, TextMixture], results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Picture]:
    """Bits per byte by domain, what each candidate reads, and the loss while training."""
    domains = by_domain(results)
    seeds = len(next(iter(results.values())))
    reads = {
        name: {part.name: float(part.tokens) for part in mixture.plan.sources if part.tokens}
        for name, mixture in mixtures.items()
    }
    return [
        BarChart(
            title="Bits per byte by domain",
            categories=list(domains),
            bars=[
                Bars(
                    name=name,
                    values=[fmean(one[name]) for one in domains.values()],
                    stderr=[stderr(one[name]) for one in domains.values()],
                )
                for name in results
            ],
            higher_is_better=False,
            caption=f"Held-out text; mean and standard error over {seeds} seeds.",
        ),
        Mixture(title="What each candidate reads", rows=reads, unit="tokens"),
        LineChart(
            title="Loss while training",
            lines=[Line(name=name, points=mean_curve(runs, name, len(some))) for name, some in results.items()],
            caption="Mean over the seeds. Each is the loss on the candidate's own mixture: lower may mean easier text.",
        ),
    ]


def mean_curve(runs: Path, name: str, seeds: int) -> list[tuple[float, float | None]]:
    """The loss by step, averaged over the seeds that have it."""
    found: dict[float, list[float]] = {}
    for seed in range(seeds):
        for step, value in series_from_metrics(read_metrics(runs / f"{name}-{seed}")).get("loss", []):
            if value is not None:
                found.setdefault(step, []).append(value)
    return [(step, fmean(values)) for step, values in sorted(found.items())]


def tables(
    spec: MixtureAblationSpec,
    mixtures: Mapping[str, TextMixture],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, Sequence[float]],
    verdict: Verdict,
) -> list[Table]:
    """Candidates by domain, every pair, and how often each source was read."""
    domains = by_domain(results)
    names = [part.name for part in next(iter(mixtures.values())).plan.sources]
    for mixture in mixtures.values():
        names += [part.name for part in mixture.plan.sources if part.name not in names]
    verdicts = {domain: judge(values, spec.confidence) for domain, values in domains.items()}
    return [
        Table(
            title="Bits per byte on held-out text",
            columns=["candidate", MEAN, *domains],
            rows=[[name, spread(scores[name]), *(spread(domains[d][name]) for d in domains)] for name in results]
            + [["best above noise", *(one.best if one.clear else "none" for one in (verdict, *verdicts.values()))]],
            caption=f"Mean ± standard deviation over {verdict.seeds} seeds. The verdict is about the column {MEAN} "
            f"({'by target' if spec.target else 'each source alike'}); each other column is judged on its own.",
        ),
        Table(
            title="Every pair",
            columns=["better", "worse", "difference", "standard error", "p, all pairs counted"],
            rows=[[one.better, one.worse, one.difference, one.stderr, one.p] for one in verdict.comparisons],
            units=["", "", "bits/byte", "bits/byte", ""],
            caption="Paired over the seeds.",
        ),
        Table(
            title="Epochs",
            columns=["candidate", *names],
            rows=[[name, *(epochs(mixture, source) for source in names)] for name, mixture in mixtures.items()],
            caption="How often each candidate reads the text of each source.",
        ),
    ]


def epochs(mixture: TextMixture, source: str) -> float:
    """How often a candidate reads a source; 0 where it leaves it out."""
    return next((part.epochs for part in mixture.plan.sources if part.name == source), 0.0)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.4f} ± {stdev(values):.4f}"


def stderr(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    return stdev(values) / len(values) ** 0.5
