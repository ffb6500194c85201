"""What a mixture comes to before anything is trained on: tokens and epochs of each source, and what repeating is worth.

The plan is made of the same turns that the data order takes, so its rows are the run's rows. Caps (`max_epochs`) bend
the mixture as little as they can: of all mixtures that keep them, the one nearest to the mixture that was asked for in
the sense of Kullback and Leibler is taken. A source above its cap is read less in every stage, in the same proportion,
and within a stage the others take its place in proportion to their weights.

Limits: a cap is kept to within a row for every stage. What repeated tokens are worth is a fit to models of up to 9B
parameters that repeated a whole web corpus (Muennighoff et al. 2023); here it is applied source by source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from luopan.errors import DataError
from luopan.report.numbers import quantity
from luopan.tokens.order import MixtureStage, Turns, Weights

REPEAT_SCALE = 15.387756  # R*_D, Muennighoff et al. 2023, arXiv:2305.16264, appendix A
ROUNDS = 20_000  # of the scaling below; it ends sooner once nothing moves any more
STILL = 1e-13
FREE_EPOCHS = 4.0  # up to here repeating is nearly as good as fresh text (ibid.)


def tempered(sizes: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Sizes to the power 1/temperature, on the scale of their largest.

    1 leaves shares as they are, a large one makes all alike (Arivazhagan et al. 2019, arXiv:1907.05019, section 4.1).
    """
    largest = max(sizes.values())
    return {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}


def worth_of(unique: float, epochs: float) -> float:
    """Fresh tokens that do as much as reading `unique` tokens `epochs` times: D' = U + U R* (1 - exp(-R / R*)).

    R = epochs - 1 is how often they are repeated (arXiv:2305.16264, section 3.1); up to one epoch all is fresh.
    """
    if epochs <= 1:
        return unique * epochs
    return unique * (1 + REPEAT_SCALE * -math.expm1(-(epochs - 1) / REPEAT_SCALE))


@dataclass(frozen=True)
class SourcePlan:
    """What a run reads of one source. Shares are of the run's rows; `tokens` counts whole rows."""

    name: str
    unique_tokens: int
    rows: int
    tokens: int
    epochs: float  # how often its tokens are targets, on average
    asked_share: float
    share: float
    cap: float | None  # epochs

    @property
    def worth(self) -> float:
        """What a token of it is worth on average, a fresh one being worth 1."""
        return worth_of(self.unique_tokens, self.epochs) / (self.unique_tokens * self.epochs) if self.epochs else 1.0


@dataclass(frozen=True)
class MixturePlan:
    """The mixture of a run, planned. `stages` have their rows and, where caps bite, weights of their own."""

    sequence_length: int
    stages: tuple[MixtureStage, ...]
    sources: tuple[SourcePlan, ...]
    capped: tuple[str, ...]  # sources that are read less than asked for

    @property
    def weights(self) -> Weights:
        """For `DataOrder`."""
        return self.stages[0].weights if len(self.stages) == 1 else self.stages

    @property
    def tokens(self) -> int:
        """Of the whole run: its rows times their length."""
        return sum(source.tokens for source in self.sources)

    @property
    def worth(self) -> float:
        """What a token of the run is worth on average."""
        return sum(source.worth * source.tokens for source in self.sources) / self.tokens

    def stage_tokens(self, number: int) -> int:
        """Tokens of a stage, from 0."""
        return (self.stages[number].rows or 0) * self.sequence_length

    def stage_share(self, number: int, name: str) -> float:
        """The share of a source in a stage."""
        weights = self.stages[number].weights
        return weights.get(name, 0.0) / sum(weights.values())

    def text(self) -> str:
        """The plan as a table for the terminal."""
        many = len(self.stages) > 1
        headings = ["source", "tokens", "share", *(f"stage {n}" for n in range(1, len(self.stages) + 1) if many)]
        rows = [[*headings, "epochs", "worth as fresh"]]
        for part in self.sources:
            by_stage = [f"{self.stage_share(n, part.name):.1%}" for n in range(len(self.stages)) if many]
            share = f"{part.share:.1%}" + (f" (asked {part.asked_share:.1%})" if part.name in self.capped else "")
            rows.append([part.name, quantity(part.tokens), share, *by_stage, f"{part.epochs:.2f}", f"{part.worth:.0%}"])
        if many:
            sizes = [quantity(self.stage_tokens(n)) for n in range(len(self.stages))]
            rows.append(["all", quantity(self.tokens), "", *sizes, "", f"{self.worth:.0%}"])
        return "\n".join(["What will be read:", *columns(rows), *self.remarks()])

    def remarks(self) -> list[str]:
        """What the figures mean, where they mean something."""
        said = []
        if self.capped:
            said.append(f"max_epochs holds back {', '.join(self.capped)}; the others take that place.")
        often = [part for part in self.sources if part.epochs > FREE_EPOCHS]
        if often:
            names = ", ".join(f"{part.name} {part.epochs:.1f} times" for part in often)
            said.append(f"Read more than about {FREE_EPOCHS:g} times a text is worth less and less: {names}.")
        return said


def plan_mixture(
    sizes: Mapping[str, int],
    stages: Sequence[MixtureStage],
    sequence_length: int,
    max_epochs: float | Mapping[str, float] | None = None,
) -> MixturePlan:
    """Plan a run over sources of `sizes` tokens, stage by stage; every stage says how many rows it has.

    `max_epochs` caps how often a source is read in the whole run. DataError, with the figures, where that leaves too
    little to read, and for a cap on a source that is not there.
    """
    stride = sequence_length - 1
    caps = _caps(sizes, max_epochs)
    room = {name: caps[name] * tokens / stride if name in caps else math.inf for name, tokens in sizes.items()}
    planned = within(stages, room, sizes, caps, sequence_length)
    rows = sum(stage.rows or 0 for stage in stages)
    asked, taken = (Turns(list(sizes), some).before(rows) for some in (stages, planned))
    sources = tuple(
        SourcePlan(
            name=name,
            unique_tokens=tokens,
            rows=taken[name],
            tokens=taken[name] * sequence_length,
            epochs=taken[name] * stride / tokens,
            asked_share=asked[name] / rows,
            share=taken[name] / rows,
            cap=caps.get(name),
        )
        for name, tokens in sizes.items()
    )
    demand = _demand(stages)
    capped = tuple(name for name in sizes if sum(part.get(name, 0.0) for part in demand) > room[name])
    return MixturePlan(sequence_length, tuple(planned), sources, capped)


def within(
    stages: Sequence[MixtureStage],
    room: Mapping[str, float],
    sizes: Mapping[str, int],
    caps: Mapping[str, float],
    sequence_length: int,
) -> list[MixtureStage]:
    """The stages with weights that keep every source within its `room` (rows, over all stages).

    Where nothing is over, they are as they came. Otherwise weights are scaled by stage and by source in turns until
    both the rows of each stage and the room of each source are kept (Sinkhorn's algorithm with an upper bound on one
    side, Chizat et al. 2018, arXiv:1607.05816): that is the nearest mixture in the sense of the module.
    """
    demand = _demand(stages)
    if all(sum(part.get(name, 0.0) for part in demand) <= room[name] for name in room):
        return list(stages)
    _check_room(stages, room, sizes, caps, sequence_length)
    lengths = [float(stage.rows or 0) for stage in stages]
    held = dict.fromkeys(room, 1.0)
    for _ in range(ROUNDS):
        scale = [
            length / math.fsum(rows * held[name] for name, rows in part.items())
            for length, part in zip(lengths, demand)
        ]
        now = {}
        for name in held:
            wanted = math.fsum(factor * part.get(name, 0.0) for factor, part in zip(scale, demand))
            now[name] = min(1.0, room[name] / wanted) if wanted else 1.0
        still = all(abs(now[name] - held[name]) <= STILL * now[name] for name in held)
        held = now
        if still:
            break
    return [
        MixtureStage({name: rows * held[name] for name, rows in part.items()}, stage.rows)
        for stage, part in zip(stages, demand)
    ]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    ]


def _demand(stages: Sequence[MixtureStage]) -> list[dict[str, float]]:
    """Rows that each stage asks of each source."""
    return [
        {name: (stage.rows or 0) * weight / math.fsum(stage.weights.values()) for name, weight in stage.weights.items()}
        for stage in stages
    ]


def _caps(sizes: Mapping[str, int], max_epochs: float | Mapping[str, float] | None) -> dict[str, float]:
    if max_epochs is None:
        return {}
    if not isinstance(max_epochs, Mapping):
        return dict.fromkeys(sizes, float(max_epochs))
    unknown = [name for name in max_epochs if name not in sizes]
    if unknown:
        raise DataError(
            f"max_epochs names {', '.join(unknown)}, which the mixture does not read",
            hint=f"It reads {', '.join(sizes)}.",
        )
    return {name: float(epochs) for name, epochs in max_epochs.items()}


def _check_room(
    stages: Sequence[MixtureStage],
    room: Mapping[str, float],
    sizes: Mapping[str, int],
    caps: Mapping[str, float],
    sequence_length: int,
) -> None:
    """DataError where some stages together need more rows than all their sources may give (Hall's condition)."""
    for count in range(1, len(stages) + 1):
        for chosen in combinations(range(len(stages)), count):
            names = {name for i in chosen for name in stages[i].weights}
            needed = sum(stages[i].rows or 0 for i in chosen)
            given = sum(room[name] for name in names)
            if needed <= given + min(1.0, 1e-3 * needed):  # part of a row is a matter of rounding
                continue
            told = "; ".join(
                f"{name} {caps[name]:g} x {quantity(sizes[name])}" for name in sizes if name in names and name in caps
            )
            stage = f"mixture stage {chosen[0] + 1} reads"
            if count > 1:
                stage = f"mixture stages {' and '.join(str(i + 1) for i in chosen)} read"
            where = "the run reads" if count == len(stages) else stage
            most = quantity(given * sequence_length)
            raise DataError(
                f"{where} {quantity(needed * sequence_length)} tokens, and max_epochs leaves {most} ({told})",
                hint=f"Train on at most {most} tokens (fewer max_steps), raise max_epochs, or add text.",
            )
