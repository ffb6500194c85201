"""Holds the floors of the house: who may import whom, read from the source, imports inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import luopan

ROOT = Path(luopan.__file__).parent
FLOORS = (
    ("__main__",),
    ("cli",),
    ("lab",),
    ("pipeline",),
    ("stages",),
    ("recipe",),
    ("serve",),
    ("synth",),
    ("rl",),
    ("evals",),
    ("generate",),
    ("train",),
    ("tokens",),
    ("corpus",),
    ("objectives",),
    ("model",),
    ("artifacts", "report"),
    ("errors",),
)
"""From the roof to the ground; a room may import from lower lines only."""

ONLY = {
    "objectives": {"errors"},
    "artifacts": {"errors"},
    "report": {"errors"},
    "model": {"errors", "artifacts", "report"},
    "errors": set(),
}
HEAVY = ("torch", "transformers", "tokenizers", "pyarrow", "matplotlib")


@dataclass(frozen=True)
class Import:
    """One import statement; `immediate` is false inside functions and under TYPE_CHECKING."""

    module: str
    target: str
    line: int
    immediate: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


def modules(root: Path = ROOT, package: str = "luopan") -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join([package, *parts])] = path
    return found


def imports_of(module: str, source: str, is_package: bool) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, immediate: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, node.lineno, immediate) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*above, *([base] if base else [])])
            # `from luopan.model import decoder` names a module, `from luopan.errors import DataError` does not: both
            # spellings are kept, and only those that are modules count.
            found.extend(Import(module, f"{base}.{alias.name}", node.lineno, immediate) for alias in node.names)
            found.append(Import(module, base, node.lineno, immediate))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.append(Import(module, argument.value, node.lineno, False))
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, immediate and not typing_only and not function)

    visit(ast.parse(source), True)
    return found


def all_imports() -> list[Import]:
    return [
        one
        for module, path in modules().items()
        for one in imports_of(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "luopan" and len(parts) > 1 else ""


def floor(name: str) -> int:
    for level, names in enumerate(reversed(FLOORS)):
        if name in names:
            return level
    raise AssertionError(f"{name} has no floor: put it into FLOORS, and into the design")


def breaches(imports: list[Import]) -> Iterator[str]:
    for one in imports:
        here, there = room(one.module), room(one.target)
        if not here or not there or here == there:
            continue  # the package's own __init__ stands on the roof; what a room imports from itself is its affair
        if here in ONLY:
            if there not in ONLY[here]:
                yield f"{one}, may import only {sorted(ONLY[here])}"
        elif floor(there) >= floor(here):
            yield f"{one}, which is above it"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of modules that import each other at once, or []."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := visit(target, [*trail, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_no_room_imports_from_above() -> None:
    known = modules()
    ours = [one for one in all_imports() if one.target in known]
    assert len(ours) > 50, "no imports found: the test looks in the wrong place"
    assert not list(breaches(ours))


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    graph: dict[str, set[str]] = {}
    for one in all_imports():
        package = any(other.startswith(f"{one.target}.") for other in known)
        if one.immediate and one.target in known and one.target != one.module and not package:
            graph.setdefault(one.module, set()).add(one.target)
    assert circle(graph) == []


def test_configurations_import_nothing_heavy() -> None:
    wrong = [
        str(one)
        for one in all_imports()
        if (one.module.endswith(".config") or room(one.module) == "recipe") and one.target.split(".")[0] in HEAVY
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("luopan.recipe.specs", HEAVY),
        ("luopan.recipe.load", HEAVY),
        ("luopan.stages.registry", HEAVY),
        ("luopan.cli.main", (*HEAVY, "typer", "rich", "pydantic", "yaml")),
        ("luopan.cli.run_verb", (*HEAVY, "pydantic", "yaml")),
        ("luopan", (*HEAVY, "pydantic", "yaml")),
    ],
)
def test_importing_these_stays_light(module: str, banned: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print([name for name in {banned!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_test_itself_sees_what_it_should() -> None:
    source = (
        "from luopan.errors import DataError\n"
        "import typing\n"
        "if typing.TYPE_CHECKING:\n    from luopan.train.loop import fit\n"
        "def f():\n    from luopan.evals import bits\n"
        "from . import attention\n"
    )
    found = imports_of("luopan.model.decoder", source, is_package=False)
    assert [str(one).split(" imports ")[1] for one in found if one.target.startswith("luopan")] == [
        "luopan.errors.DataError",
        "luopan.errors",
        "luopan.train.loop.fit",
        "luopan.train.loop",
        "luopan.evals.bits",
        "luopan.evals",
        "luopan.model.attention",
        "luopan.model",
    ]
    assert {one.target for one in found if one.immediate and "luopan.t" in one.target} == set()
    assert {line.split()[4] for line in breaches(found)} == {
        "luopan.train.loop.fit,",
        "luopan.train.loop,",
        "luopan.evals.bits,",
        "luopan.evals,",
    }
    assert list(breaches(imports_of("luopan.corpus.x", "from luopan.tokens import chat", is_package=False)))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
