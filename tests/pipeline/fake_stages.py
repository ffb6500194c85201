"""Two stage kinds that need no torch: `make` writes a text, `join` joins the texts of others, slowly if asked.

Run as a script it is a whole `luopan run` for them: `python fake_stages.py RECIPE.yaml RUNS [key.path=value …]`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from time import sleep
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from luopan.pipeline.reporter import QuietReporter
from luopan.pipeline.run import RunResult, run
from luopan.recipe.load import load_recipe


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MakeSpec(Spec):
    kind: Literal["make"]
    text: str = "text"
    note: str = ""
    reads: str | None = Field(default=None, description="a file outside the run")


class JoinSpec(Spec):
    kind: Literal["join"]
    sources: tuple[str, ...] = ()
    source: str | None = None
    steps: int = 1
    seconds_per_step: float = 0.0
    fails_at: int | None = None
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"sources": ("make", "join"), "source": ("make", "join")}


class FakeRecipe(Spec):
    name: str
    seed: int = 0
    stages: dict[str, Annotated[MakeSpec | JoinSpec, Field(discriminator="kind")]] = Field(min_length=1)


class Make:
    kind: ClassVar[str] = "make"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("text.txt",)

    @staticmethod
    def fingerprint(spec: MakeSpec) -> str:
        return Path(spec.reads).read_text() if spec.reads else ""

    @staticmethod
    def run(spec: MakeSpec, inputs: Any, out: Any) -> dict[str, Any]:
        (out.path / "text.txt").write_text(spec.text)
        (out.path / "report.html").write_text(f"<p>{spec.text}</p>")
        return {"before": {"length": 0}, "after": {"length": len(spec.text), "seed": out.seed}}


class Join:
    """Writes one line per step to `log.txt` and goes on after the last one that is there."""

    kind: ClassVar[str] = "join"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("joined",)

    @staticmethod
    def run(spec: JoinSpec, inputs: Any, out: Any) -> dict[str, Any]:
        log = out.path / "log.txt"
        done = len(log.read_text().splitlines()) if log.exists() else 0
        for step in range(done, spec.steps):
            if step == spec.fails_at and not (out.path.parents[1] / "mended").exists():
                raise RuntimeError(f"step {step} fails")
            sleep(spec.seconds_per_step)
            with log.open("a") as file:
                file.write(f"step {step} at {time.time_ns()} of process {os.getpid()}\n")
        artifacts = [artifact for role in sorted(inputs) for artifact in inputs[role]]
        texts = [
            next(path for path in artifact.path.rglob("*.txt") if path.name != "log.txt") for artifact in artifacts
        ]
        (out.path / "joined").mkdir(exist_ok=True)
        (out.path / "joined" / "text.txt").write_text("+".join(path.read_text() for path in texts))
        return {"before": {}, "after": {"texts": len(texts)}, "resumed_at": done}


STAGES = {"make": Make, "join": Join}


def stage_class(kind: str) -> Any:
    return STAGES[kind]


def run_fake(recipe: Any, overrides: Any = (), *, runs: Path, **options: Any) -> tuple[RunResult, QuietReporter]:
    reporter = QuietReporter()
    loaded = load_recipe(recipe, overrides, model=FakeRecipe)
    return run(loaded, runs=runs, reporter=reporter, stage_class=stage_class, **options), reporter


def main() -> None:
    import luopan.stages.registry as registry
    from luopan.cli.main import main as luopan
    from luopan.recipe import specs

    registry.stage_class = stage_class
    specs.Recipe = FakeRecipe
    luopan(["run", sys.argv[1], "--runs", *sys.argv[2:]])


if __name__ == "__main__":
    main()
