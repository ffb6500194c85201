"""What each process of test_distributed_team.py runs: a recipe of toy stages, one of which trains.

`python team_script.py RUNS REPORT [key.path=value …]`; every stage notes in `RUNS/log-RANK` that it ran and how far.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from luopan.artifacts import atomic_write_text
from luopan.errors import LuopanError, TrainingError
from luopan.pipeline.reporter import QuietReporter
from luopan.pipeline.run import run
from luopan.recipe.load import load_recipe
from luopan.train.config import TrainConfig
from luopan.train.ranks import leave_to_leader, rank, sum_over_ranks, world_size

RUNS = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


class WriteSpec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["write"]
    text: str = "text"


class LearnSpec(TrainConfig):
    kind: Literal["learn"]
    source: str
    fails: str = ""
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"source": ("write", "learn")}


class TeamRecipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    seed: int = 0
    stages: dict[str, Annotated[WriteSpec | LearnSpec, Field(discriminator="kind")]]


class Write:
    kind: ClassVar[str] = "write"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("text.txt",)

    @staticmethod
    def fingerprint(spec: WriteSpec) -> str:
        return ""

    @staticmethod
    def run(spec: WriteSpec, inputs: Any, out: Any) -> dict[str, Any]:
        log(out.remember("word", lambda: "write"))
        atomic_write_text(out.path / "text.txt", spec.text)
        return {"before": {}, "after": {}}


class Learn:
    kind: ClassVar[str] = "learn"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("text.txt",)

    @staticmethod
    def fingerprint(spec: LearnSpec) -> str:
        return ""

    @staticmethod
    def run(spec: LearnSpec, inputs: Any, out: Any) -> dict[str, Any]:
        text = inputs["source"][0].file("text.txt").read_text()
        known = out.remember("before", lambda: {"measured_by": out.remember("ranks", lambda: rank()), "text": text})
        fail(spec, "training")
        summed = torch.tensor([float(rank() + 1)])
        sum_over_ranks([summed])  # stands for the training
        log(f"{out.name} trained {known} {summed.tolist()} {out.seed}")
        leave_to_leader()
        fail(spec, "measuring")
        assert out.remember("after", world_size) == 1  # rank 0 waits for nobody now
        log(f"{out.name} measured")
        atomic_write_text(out.path / "text.txt", f"{text} {summed.item():g}")
        return {"before": {}, "after": {"sum": summed.item()}}


def fail(spec: LearnSpec, place: str) -> None:
    if spec.fails == f"{place} {rank()}":
        raise TrainingError(f"rank {rank()} fails while {place}")


def log(text: str) -> None:
    number = os.environ.get("RANK", "0")
    with (RUNS / f"log-{number}").open("a") as file:
        file.write(text + "\n")


def main(report: Path, overrides: list[str]) -> int:
    stages = {"write": Write, "learn": Learn}
    recipe = {
        "name": "team",
        "seed": 5,
        "stages": {
            "first": {"kind": "write"},
            "second": {"kind": "learn", "source": "first", "learning_rate": 1, "max_steps": 1},
            "third": {"kind": "learn", "source": "second", "learning_rate": 1, "max_steps": 1},
        },
    }
    loaded = load_recipe(recipe, overrides, model=TeamRecipe)
    reporter = QuietReporter()
    number = os.environ.get("RANK", "0")
    try:
        result = run(loaded, runs=RUNS, reporter=reporter, stage_class=stages.__getitem__)
    except LuopanError as error:
        (report / f"{number}.json").write_text(json.dumps({"error": error.message}))
        return error.exit_code
    states = {name: outcome.state for name, outcome in result.outcomes.items()}
    (report / f"{number}.json").write_text(json.dumps({"states": states, "path": str(result.path)}))
    assert world_size() == 1  # the processes have been parted again
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[2]), sys.argv[3:]))
