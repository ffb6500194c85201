"""`luopan corpus train-quality`: a classifier of one's own, from good and bad examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luopan.cli.app import JsonFlag, examples
from luopan.errors import DataError

if TYPE_CHECKING:
    from luopan.corpus.classifier import LinearModel
    from luopan.corpus.classifier_training import Notes

SHOWN = 15  # n-grams per side on the screen

EPILOG = examples(
    "luopan corpus train-quality --good textbooks.jsonl --bad crawl.jsonl --out quality.safetensors",
    "luopan corpus run crawl.jsonl --out corpus quality.model=quality.safetensors quality.keep_fraction=0.2",
)


def train_quality(
    good: Annotated[
        list[Path],
        typer.Option(
            "--good", metavar="FILE", help="Texts to keep: a file, folder or glob; may be given several times."
        ),
    ],
    bad: Annotated[
        list[Path],
        typer.Option("--bad", metavar="FILE", help="Texts to drop, best a sample of what will be filtered; likewise."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the model goes; the figures go beside it.")],
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Column of rows with the text.")] = "text",
    good_column: Annotated[str | None, typer.Option(metavar="NAME", help="The same, of the good alone.")] = None,
    bad_column: Annotated[str | None, typer.Option(metavar="NAME", help="The same, of the bad alone.")] = None,
    seed: Annotated[int, typer.Option(help="Which examples are held out, and the order of training.")] = 0,
    ngrams: Annotated[int, typer.Option(min=1, max=5, help="Words in a row that make a feature, at most.")] = 2,
    buckets: Annotated[int, typer.Option(min=10, max=24, help="The number of weights, as a power of two.")] = 20,
    max_examples: Annotated[int, typer.Option(min=40, help="Per side; of more, this many are drawn.")] = 50_000,
    as_json: JsonFlag = False,
) -> None:
    """Trains a classifier that tells good documents from bad ones, and measures it on examples held out.

    A fifth of the examples is measured on, a tenth sets the calibration. Use the file as quality.model in a recipe.
    """
    from luopan.corpus.classifier import facts_path, save_model
    from luopan.corpus.classifier_training import Notes, TrainingSettings, read_examples, train

    if facts_path(out) == out or not out.absolute().parent.is_dir():
        reason = "the figures go to a .json file of this name" if out.suffix == ".json" else "there is no such folder"
        raise DataError(f"the model cannot be written there: {reason}", where=out, hint="--out quality.safetensors")
    settings = TrainingSettings(seed=seed, ngrams=ngrams, buckets=1 << buckets, max_examples=max_examples)
    notes = Notes()
    columns = {"good": good_column or text_column, "bad": bad_column or text_column}
    sides = (read_examples(good, columns["good"], notes), read_examples(bad, columns["bad"], notes))
    try:
        model = train(*sides, settings, name=out.stem)
    except DataError as error:
        raise with_unread(error, notes, columns) from None
    model.facts["inputs"] = {"good": sorted(map(str, good)), "bad": sorted(map(str, bad)), "unread": notes.as_dict()}
    save_model(model, out)
    if as_json:
        print(json.dumps(model.facts, ensure_ascii=False, indent=2))
        return
    print_facts(model)
    print(f"\nWritten to {out}, the figures to {facts_path(out)}.")


def with_unread(error: DataError, notes: Notes, columns: dict[str, str]) -> DataError:
    """The error with the rows that could not be used, and with the columns that were looked for."""
    unread = [f"{count:,} × {reason}" for reason, count in notes.as_dict().items()]
    if not unread:
        return error
    looked = " and ".join(dict.fromkeys(f"{name!r}" for name in columns.values()))
    hint = f"The text was looked for in the column {looked}: --text-column NAME (or --good-column, --bad-column)."
    lines = "".join(f"\n    {line}" for line in unread)
    return DataError(
        f"{error.message}; left out:{lines}", where=error.where, hint=f"{hint}\n  {error.hint or ''}".strip()
    )


def print_facts(model: LinearModel) -> None:
    """Examples, figures on held-out ones, and the strongest n-grams, for a person."""
    facts: dict[str, Any] = model.facts
    counts = facts["examples"]
    print("examples      " + ", ".join(f"{sum(counts[side].values()):,} {side}" for side in ("good", "bad")))
    for reason, count in facts["inputs"]["unread"].items():
        print(f"left out      {count:,} ({reason})")
    if facts["left_out"]["on_both_sides"]:
        print(f"left out      {facts['left_out']['on_both_sides']:,} (on both sides)")
    held = [f"{counts[side]['held_out']:,} {side}" for side in ("good", "bad")]
    print(f"held-out AUC  {facts['held_out_auc']:.4f} ({' and '.join(held)} examples measured)")
    print(f"calibration   off by {facts['calibration']['expected_error']:.3f} on average")
    print("\nmin_score  good kept  bad kept")
    for row in facts["held_out_at"]:
        print(f"{row['score']:>9.1f}  {row['recall']:>9.1%}  {row['false_positives']:>8.1%}")
    for side in ("good", "bad"):
        words = "  ".join(f"“{row['ngram']}”" for row in facts["strongest"][side][:SHOWN])
        print(f"\nspeaks for {side}: {words}")
