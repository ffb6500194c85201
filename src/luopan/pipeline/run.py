"""Runs a recipe: every stage in order, skipping what is done, going on with what was begun.

A run lives in `runs/<name>/`, one folder per stage. Whether a stage is done is decided by its identity alone
(`identity.py`), so a changed setting redoes that stage and those that follow, and nothing else. The run's folder is
locked meanwhile. What a stage does is the stage's business; what is kept, resumed and replaced is decided here and in
`folders.py`; several processes at one run, in `team.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luopan.artifacts import (
    Artifact,
    FolderLock,
    Manifest,
    atomic_write_bytes,
    atomic_write_text,
    build_manifest,
    mend_os_errors,
    verify,
    versions,
    write_manifest,
)
from luopan.errors import ArtifactError, Interrupted, LuopanError
from luopan.pipeline import memory
from luopan.pipeline.folders import StageFolders
from luopan.pipeline.graph import needs_of, select
from luopan.pipeline.identity import Asked, Inputs, asked, changes, payload_content
from luopan.pipeline.reporter import QuietReporter, Reporter
from luopan.pipeline.team import Task, Team, team
from luopan.recipe.load import LoadedRecipe, load_recipe
from luopan.recipe.lock import lock_text
from luopan.recipe.references import read_from
from luopan.train.interrupt import DEADLINE_CODE

State = Literal["done", "made", "resumed"]


@dataclass(frozen=True)
class Outcome:
    """What happened to one stage: it was `done` already, `made`, or `resumed` and finished."""

    name: str
    state: State
    manifest: Manifest


@dataclass
class RunResult:
    """The run's folder and its stages in the order they were looked at; `seconds` is the time of this call."""

    path: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name


def run(
    recipe: Any,
    overrides: Sequence[str] = (),
    *,
    until: str | None = None,
    only: Sequence[str] = (),
    fresh: Sequence[str] = (),
    runs: Path | str = "runs",
    reporter: Reporter | None = None,
    stage_class: Callable[[str], Any] | None = None,
    stop_after: float | None = None,
    lock_file: Path | None = None,
) -> RunResult:
    """Brings the stages of a recipe up to date and returns where they are.

    `recipe` is a shipped name, a path, a mapping or a `Recipe`. `until` stops after a stage (and what it needs), `only`
    touches these stages alone (their inputs have to be done), `fresh` throws away what there is of a stage first.
    `stage_class` maps a kind to its stage (default: the registry). `stop_after` seconds from now the run saves and
    stops, at the next step of a training or before the next stage. `lock_file`: where to write down what was run, if
    not in the run's own `recipe.lock.yaml`. Raises LuopanError; what is done stays.

    Under torchrun every process calls this: rank 0 runs the recipe, the others help it to train, all get the result.
    """
    stop_at = None if stop_after is None else time.monotonic() + stop_after
    loaded = recipe if isinstance(recipe, LoadedRecipe) else load_recipe(recipe, overrides)
    if stage_class is None:
        from luopan.stages.registry import stage_class as registered

        stage_class = registered
    with team() as mates:
        if not mates.leads:
            result: RunResult = mates.follow(stage_class, stop_at)
            return result
        job = _Job(loaded, Path(runs) / loaded.recipe.name, reporter or QuietReporter(), stage_class, mates, stop_at)
        job.lock_file = lock_file or job.path / "recipe.lock.yaml"
        result = job.run(until, tuple(only), tuple(fresh))
        mates.dismiss(result)
        return result


@dataclass
class _Job:
    loaded: LoadedRecipe
    path: Path
    reporter: Reporter
    stage_class: Callable[[str], Any]
    team: Team
    stop_at: float | None
    ready: dict[str, Artifact] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=versions)
    lock_file: Path = Path()

    def run(self, until: str | None, only: tuple[str, ...], fresh: tuple[str, ...]) -> RunResult:
        stages: Mapping[str, Any] = self.loaded.recipe.stages
        chosen = select(needs_of(stages), until=until, only=only, fresh=fresh)
        for name in chosen:
            check = getattr(self.stage_class(stages[name].kind), "check", None)
            if check is not None:
                check(stages[name])
        started = time.perf_counter()
        result = RunResult(self.path)
        with mend_os_errors(self.path):
            self._make_folder()
        with mend_os_errors(self.path), FolderLock(self.path):
            self._write_lock_file()
            self.reporter.begin(self.loaded.recipe.name, self.path, chosen)
            for name in chosen:
                outcome = self._stage(name, stages[name], fresh=name in fresh)
                result.outcomes[name] = outcome
                result.peak_memory_bytes = max(result.peak_memory_bytes, memory.peak_bytes())
        result.seconds = time.perf_counter() - started
        self.reporter.end(result)
        return result

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            hint = "Choose another place with --runs DIR."
            raise ArtifactError(f"this folder cannot be made: {error.strerror}", where=self.path, hint=hint) from None

    def _write_lock_file(self) -> None:
        file, text = self.lock_file, lock_text(self.loaded, self.versions)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            atomic_write_text(file, text)

    def _stage(self, name: str, spec: Any, *, fresh: bool) -> Outcome:
        folders = StageFolders(self.path, name)
        stage = self.stage_class(spec.kind)
        wanted, inputs = self._asked(name)
        reason = "as asked with --fresh" if fresh else ""
        if not fresh:
            manifest = folders.finished()
            if manifest is not None and manifest.identity == wanted.identity:
                folders.tidy()
                self._publish(folders)
                self.reporter.skipped(name, manifest)
                self.ready[name] = Artifact(folders.final)
                return Outcome(name, "done", manifest)
            if manifest is not None:
                reason = changes(wanted, manifest, folders.facts())
        outcome = self._make(folders, spec, stage, wanted, inputs, fresh=fresh, reason=reason)
        self.ready[name] = Artifact(folders.final)
        self.verified.add(name)  # its checksums were taken a moment ago
        return outcome

    def _asked(self, name: str) -> tuple[Asked, Inputs]:
        recipe = self.loaded.recipe
        spec = recipe.stages[name]
        inputs = {role: tuple(self._input(name, n) for n in names) for role, names in read_from(spec).items()}
        return asked(name, spec, self.stage_class(spec.kind), recipe.seed, inputs), inputs

    def _input(self, stage: str, needed: str) -> Artifact:
        """A stage that another reads from; where `--only` left it out, it has to be done and up to date."""
        if needed not in self.ready:
            folders = StageFolders(self.path, needed)
            manifest = folders.finished()
            hint = f"Run it first: leave --only out, or give --only {needed} --only {stage}."
            if manifest is None:
                raise ArtifactError(f"{stage} needs {needed}, which is not done", where=self.path, hint=hint)
            wanted, _ = self._asked(needed)
            if manifest.identity != wanted.identity:
                why = changes(wanted, manifest, folders.facts())
                raise ArtifactError(f"{stage} needs {needed}, which is out of date ({why})", where=self.path, hint=hint)
            self.ready[needed] = Artifact(folders.final)
        return self.ready[needed]

    def _make(
        self,
        folders: StageFolders,
        spec: Any,
        stage: Any,
        wanted: Asked,
        inputs: Inputs,
        *,
        fresh: bool,
        reason: str,
    ) -> Outcome:
        for artifact in (artifact for artifacts in inputs.values() for artifact in artifacts):
            if artifact.path.name not in self.verified:
                verify(artifact.path)
                self.verified.add(artifact.path.name)
        resumed = folders.begin(wanted, fresh=fresh)
        manifest = folders.whole_partial(wanted.identity) if resumed else None
        if manifest is None:
            self._stop_in_time(folders.name)
            self.reporter.started(folders.name, spec.kind, resumed=resumed, reason=reason)
            manifest = self._work(folders, spec, stage, wanted, inputs)
        folders.finish()
        self._publish(folders)
        self.reporter.finished(folders.name, manifest)
        return Outcome(folders.name, "resumed" if resumed else "made", manifest)

    def _work(self, folders: StageFolders, spec: Any, stage: Any, wanted: Asked, inputs: Inputs) -> Manifest:
        from luopan.stages.base import Workspace

        memory.reset_peak()
        before, started = folders.begin_work(), time.perf_counter()
        progress = self.reporter.progress(folders.name)
        space = Workspace(folders.partial, folders.name, wanted.seed, progress, self.stop_at)
        try:
            self.team.help_with(Task(folders.name, spec, wanted.seed, folders.partial, inputs))
            with mend_os_errors(folders.partial):
                metrics = dict(stage.run(spec, inputs, space))
        except KeyboardInterrupt as error:
            self._stopped(folders, before + time.perf_counter() - started)
            raise Interrupted(
                f"interrupted in stage {folders.name}; the stages before it are kept",
                hint="Run the same command again to go on.",
            ) from error
        except BaseException:
            self._stopped(folders, before + time.perf_counter() - started)
            raise
        finally:
            progress.finish()  # gives the terminal back, whatever happened
        metrics.setdefault("peak_memory_bytes", memory.peak_bytes())
        return self._seal(folders, stage, wanted, metrics, before + time.perf_counter() - started)

    def _stop_in_time(self, name: str) -> None:
        """A stage that does not train cannot be stopped half-way, so none is begun when the time is up."""
        if self.stop_at is not None and time.monotonic() >= self.stop_at:
            error = Interrupted(
                f"the time given with --stop-after is up before stage {name}; the stages before it are kept",
                hint="Run the same command again to go on.",
            )
            error.exit_code = DEADLINE_CODE
            raise error

    def _stopped(self, folders: StageFolders, seconds: float) -> None:
        """Keeps the time spent; a full disk must not hide why the stage stopped."""
        try:
            folders.note_seconds(seconds)
        except (LuopanError, OSError):
            return

    def _seal(
        self, folders: StageFolders, stage: Any, wanted: Asked, metrics: dict[str, Any], seconds: float
    ) -> Manifest:
        manifest = build_manifest(
            folders.partial,
            kind=wanted.kind,
            name=folders.name,
            identity=wanted.identity,
            inputs=wanted.inputs,
            spec=wanted.spec,
            versions=self.versions,
            metrics=metrics,
            seconds=seconds,
        )
        content = payload_content(manifest.files, getattr(stage, "payload", ()))
        if content is not None:
            manifest = manifest.model_copy(update={"content": content})
        write_manifest(folders.partial, manifest)
        return manifest

    def _publish(self, folders: StageFolders) -> None:
        """A stage's `report.html` also stands beside the stages, where a reader looks for it."""
        page, copy = folders.final / "report.html", self.path / "report.html"
        if page.is_file() and not (copy.is_file() and copy.stat().st_mtime >= page.stat().st_mtime):
            atomic_write_bytes(copy, page.read_bytes())
