"""`luopan scale RECIPE` trains a family of sizes and fits a law; with `--csv FILE` it fits points that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import JsonFlag, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan scale quickstart --sizes 180k,420k,800k,1.6M --tokens 2,5,10,20",
        "luopan scale quickstart --sizes 100k,300k,900k --tokens 3,10 --factors 0.5,1,2",
        "luopan scale --csv points.csv --out law",
    )
)
def scale(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe's name or a YAML file.")] = None,
    sizes: Annotated[str, typer.Option(metavar="N,N,…", help="Parameters of the family.")] = "180k,420k,800k,1.6M",
    tokens: Annotated[str, typer.Option(metavar="X,X,…", help="Tokens for each parameter.")] = "2,5,10,20",
    factors: Annotated[
        str, typer.Option(metavar="X,X,…", help="Try the learning rate times these, and take the best.")
    ] = "1",
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="The pretrain stage; default: the first.")] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="FIGURE", help="What falls; default: its first such figure.")
    ] = None,
    hold_out: Annotated[bool, typer.Option(help="Leave the largest training out and predict it.")] = True,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Fit these points instead.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="With --csv: where page and figures go.")] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs live; this one in DIR/<name>.")] = Path("runs"),
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be trained, train nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fits L(N, D) to trainings of several sizes and lengths, predicts the largest, and says what is best ahead.

    Ctrl-C saves; the same command goes on.
    """
    from luopan.errors import RecipeError
    from luopan.lab.planning.quantities import read_count
    from luopan.lab.scaling.points import points_of, read_points
    from luopan.lab.scaling.report import as_plain, law_text, make_law, write_law

    if (recipe is None) == (csv is None):
        raise RecipeError("luopan scale needs a recipe or --csv, and one of them only")
    if csv is not None:
        law = make_law(read_points(csv), "", hold_out=hold_out)
        folder, name, seed = out, csv.stem, None
    else:
        from luopan.lab.scaling.family import family_folder, plan_family, run_family
        from luopan.pipeline.reporter import ConsoleReporter, make_console
        from luopan.train.interrupt import orderly_sigterm

        numbers = {key: [read_count(part, f"--{key}") for part in text.split(",")]
                   for key, text in {"sizes": sizes, "tokens": tokens, "factors": factors}.items()}  # fmt: skip
        family = plan_family(str(recipe), numbers["sizes"], numbers["tokens"], stage=stage, factors=numbers["factors"])
        console = make_console(stderr=as_json)
        if plan:
            for member in family.members:
                console.print(f"{member.stage}: {member.parameters:,} parameters, {member.tokens:,} tokens, learning "
                              f"rate {member.learning_rate:g}", highlight=False)  # fmt: skip
            total = sum(member.flops(family.length) for member in family.members)
            console.print(f"{len(family.members)} trainings, {total:.2e} FLOPs", highlight=False)
            return
        with orderly_sigterm():
            results = run_family(family, runs=runs, reporter=ConsoleReporter(console),
                                 said=lambda text: console.print(text, highlight=False))  # fmt: skip
        points, figure = points_of(family, results, metric)
        unit = next(result.figures[figure].unit for _, result in results if figure in result.figures)
        law = make_law(points, unit, hold_out=hold_out)
        folder, name, seed = family_folder(family, runs), family.recipe.recipe.name, family.recipe.recipe.seed
    if as_json:
        print(json.dumps(as_plain(law), ensure_ascii=False, indent=2))
    else:
        print(law_text(law))
    if folder is not None:
        page = write_law(law, folder, name, seed)
        if not as_json:
            print(f"page: {page}")
