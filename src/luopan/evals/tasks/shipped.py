"""Task files and suites by name: those that come with the package, and files of the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from luopan.errors import DataError
from luopan.evals.tasks.config import AnyTask, ChoiceTask, Data, GenerateTask, LastWordTask, Suite, Task, TextTask
from luopan.evals.tasks.rows import READS, Row, read_rows
from luopan.evals.tasks.scored import run_choice, run_last_word, run_text
from luopan.evals.tasks.written import Write, run_written

HERE = Path(__file__).parent
_TASK: TypeAdapter[Any] = TypeAdapter(AnyTask)


@cache
def task_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (HERE / "files").glob("*.yaml")))


@cache
def suite_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (HERE / "suites").glob("*.yaml")))


def load_suite(name: str) -> Suite:
    """A suite that comes with the package."""
    return _valid(Suite, read_yaml(HERE / "suites" / f"{name}.yaml"), HERE / "suites" / f"{name}.yaml")


def load_task(name: str | Path) -> tuple[Task, Path | None]:
    """A shipped task by name, or a file; and the folder that its paths are meant from. DataError."""
    shipped = HERE / "files" / f"{name}.yaml"
    path = shipped if str(name) in task_names() else Path(name)
    told = read_yaml(path)
    if "like" in told:
        parent, _ = load_task(_beside(str(told.pop("like")), path))
        told = {**parent.model_dump(exclude_unset=True, exclude={"name"}), **told}
        told = {key: value for key, value in told.items() if value is not None}
    told.setdefault("name", path.stem)
    return _valid(_TASK, told, path), None if path == shipped else path.parent


def _beside(name: str, path: Path) -> str:
    return name if name in task_names() else str(path.parent / name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping out of a YAML file. DataError."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"is not YAML: {' '.join(str(error).split())[:200]}", where=path) from None
    if not isinstance(told, dict):
        raise DataError("a task file is a mapping: kind, data, prompt, …", where=path)
    return told


def _valid(model: Any, told: Mapping[str, Any], path: Path) -> Any:
    try:
        return model.validate_python(told) if isinstance(model, TypeAdapter) else model.model_validate(told)
    except ValidationError as error:
        kinds = ("choice", "last_word", "generate", "text")
        said = [
            f"{'.'.join(str(part) for part in one['loc'] if part not in kinds) or 'task'}: "
            + one["msg"].removeprefix("Value error, ")
            for one in error.errors()
        ]
        raise DataError("; ".join(said), where=path, hint="docs/evals.md says what a task file holds.") from None


def with_data(task: Task, folder: Path | None) -> Task:
    """The task with rows from `folder`/NAME.jsonl (.gz, .zst), .json or .parquet, where there is such a file."""
    if folder is None:
        return task
    file = next((path for end in READS if (path := folder / f"{task.name}{end}").is_file()), None)
    if file is None:
        return task
    return task.model_copy(update={"data": Data(path=str(file.absolute()))})


def identity_of(task: Task, rows: Sequence[Row]) -> str:
    """A hash of the rows and of how they are put, not of how they are graded or where they lie."""
    how = task.model_dump(mode="json", exclude={"data", "description", "source", "main"})
    text = json.dumps([how, list(rows)], sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(task: Task, folder: Path | None, limit: int | None) -> list[Row]:
    """The first rows of a task."""
    return read_rows(task.data, folder, limit)


def run_task(
    task: Task, rows: Sequence[Row], folder: Path | None, *, model: Any, tokenizer: Any, write: Write, seed: int = 0
) -> Any:
    """The task's Result. `model` None (an endpoint): only what is written can be scored; DataError for the rest."""
    if isinstance(task, GenerateTask):
        return run_written(task, rows, write, folder, seed)
    if model is None:
        raise DataError(
            f"a task of kind {getattr(task, 'kind', '')} needs log-probabilities of given text, which an endpoint"
            " does not give",
            where=task.name,
            hint="Take tasks of kind generate.",
        )
    if isinstance(task, ChoiceTask):
        return run_choice(task, rows, model, tokenizer, folder)
    if isinstance(task, LastWordTask):
        return run_last_word(task, rows, model, tokenizer)
    assert isinstance(task, TextTask)
    return run_text(task, rows, model, tokenizer)
