"""`luopan report RUN`: a run's figures and its page; where a model came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan report runs/quickstart",
        "luopan report runs/quickstart --rebuild",
        "luopan report runs/quickstart/sft --json",
    )
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one stage or model of it.")],
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Write the page again, with nothing else.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Shows what each stage of a run gained and where its page is; of a stage or model, all it was made from."""
    if rebuild:
        rebuild_page(run)
    if (run / "manifest.json").is_file() or not (run / "recipe.lock.yaml").is_file():
        _show_lineage(run, as_json)
    else:
        _show_run(run, as_json)


def rebuild_page(run: Path) -> None:
    """Makes the run's report stage again."""
    from luopan.errors import RecipeError
    from luopan.pipeline.reporter import ConsoleReporter
    from luopan.pipeline.run import run as run_recipe
    from luopan.recipe.load import load_recipe

    loaded = load_recipe(run / "recipe.lock.yaml", [f"name={run.resolve().name}"])
    stages = [name for name, spec in loaded.recipe.stages.items() if spec.kind == "report"]
    if not stages:
        raise RecipeError("this run's recipe has no report stage", where=run, hint="Add one: kind: report")
    run_recipe(loaded, only=stages, fresh=stages, runs=run.resolve().parent, reporter=ConsoleReporter())


def _show_run(run: Path, as_json: bool) -> None:
    from luopan.artifacts import read_manifest
    from luopan.pipeline.reporter import ConsoleReporter

    manifests = [read_manifest(path.parent) for path in sorted(run.glob("*/manifest.json"))]
    manifests.sort(key=lambda manifest: manifest.created)
    page = run / "report.html"
    if as_json:
        stages = {m.name: {"kind": m.kind, "seconds": m.seconds, "metrics": m.metrics} for m in manifests}
        facts = {"page": str(page) if page.exists() else None, "stages": stages}
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    reporter = ConsoleReporter()
    for manifest in manifests:
        reporter.finished(manifest.name, manifest)
    print(f"report: {page}" if page.exists() else "no report.html yet: its report stage has not run")


def _show_lineage(path: Path, as_json: bool) -> None:
    from luopan.pipeline.lineage import lineage

    steps = lineage(path)
    if as_json:
        print(json.dumps([step.as_dict() for step in steps], ensure_ascii=False, indent=2))
        return
    for step in steps:
        print(f"{step.name} ({step.kind}) {step.state}: {step.path}")
        for label, value in _facts(step):
            print(f"  {label:<10} {value}")


def _facts(step: Any) -> list[tuple[str, str]]:
    facts = [("identity", step.identity[:16]), ("content", step.content[:16])]
    if step.inputs:
        facts.append(("made from", ", ".join(f"{role}: {name}" for role, name in step.inputs.items())))
    if step.created:
        facts.append(("made", f"{step.created}, in {step.seconds:.0f} s"))
    if step.versions:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in step.versions.items())))
    return facts
