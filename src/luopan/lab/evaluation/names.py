"""What `--tasks` means: skills, shipped tasks and suites, files of the user's, tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luopan.corpus.skills import skill_names
from luopan.errors import RecipeError
from luopan.evals.tasks.shipped import load_suite, read_yaml, suite_names, task_names
from luopan.recipe.introspect import suggestion

HARNESS = "lm_eval:"


@dataclass(frozen=True)
class Asked:
    """Each kind in the order in which it was named, nothing twice."""

    skills: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    harness: tuple[str, ...] = ()


def read_names(names: Sequence[str]) -> Asked:
    """RecipeError for a name that is none, with the nearest one."""
    skills, tasks, harness = [], [], []
    for name in names:
        if name.startswith(HARNESS):
            harness.append(name.removeprefix(HARNESS))
        elif Path(name).suffix in (".yaml", ".yml"):
            tasks += tasks_of(Path(name))
        elif name in suite_names():
            tasks += load_suite(name).tasks
        elif name in task_names():
            tasks.append(name)
        elif name in skill_names():
            skills.append(name)
        else:
            known = [*skill_names(), *task_names(), *suite_names()]
            near = suggestion(name, known)
            hint = None if near else "`luopan eval MODEL --tasks list` names them all."
            raise RecipeError(f'unknown task "{name}"{near}', hint=hint)
    return Asked(tuple(dict.fromkeys(skills)), tuple(dict.fromkeys(tasks)), tuple(dict.fromkeys(harness)))


def tasks_of(file: Path) -> list[str]:
    """The file itself, or the tasks that it lists where it is a suite; files in it are meant from its own folder."""
    told = read_yaml(file)
    if "tasks" not in told:
        return [str(file)]
    listed = told["tasks"]
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
        raise RecipeError("tasks is a list of names and files", where=file)
    found = []
    for one in listed:
        if Path(one).suffix in (".yaml", ".yml"):
            found.append(str(file.parent / one))
        elif one in task_names():
            found.append(one)
        else:
            raise RecipeError(f'unknown task "{one}"{suggestion(one, task_names())}', where=file)
    return found
