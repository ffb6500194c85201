"""`luopan corpus`: makes a corpus outside a recipe, looks into one, tries thresholds, shows its data card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.corpus_print import (
    print_card,
    print_funnel,
    print_json,
    print_page,
    print_trial,
    summary,
    trial_as_plain,
)
from luopan.cli.corpus_quality_verb import EPILOG, train_quality

app = verb_app()

Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Defaults for web, books, code, maths or zh text.")
]
TextColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Column with the text (default: text).")]
IdColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Column that names a document.")]
UrlColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Column with the page's address.")]
Where = Annotated[Path, typer.Argument(metavar="WHERE", help="A curate stage, a run, or a corpus's folder.")]


@app.callback(
    epilog=examples(
        "luopan corpus run texts --preset web --out corpus",
        "luopan corpus show corpus --rejected gopher_quality",
        "luopan corpus try texts gopher_quality.min_words=30",
        "luopan corpus card runs/quickstart/curate --html card.html",
    )
)
def corpus() -> None:
    """Makes a corpus from dirty text, looks at what was kept and rejected, tries thresholds."""


@app.command(
    epilog=examples(
        "luopan corpus run texts --preset web --out corpus",
        "luopan corpus run books=texts/books.jsonl.zst pages=crawl --out corpus minhash.ngram=13 workers=4",
        "luopan corpus run crawl.parquet --text-column body --url-column url --preset web --out corpus c4=null",
    )
)
def run(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE|KEY=VALUE",
            help="Files, folders, globs, packaged:NAME, code:FOLDER, hub:OWNER/NAME; then settings of the steps.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the corpus goes.")],
    preset: Preset = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    url_column: UrlColumn = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help="For the data card.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the corpus that DIR holds.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Makes a corpus of sources: cleaned, filtered, deduplicated, with a held-out part and a data card.

    Interrupted work goes on with the same command. Settings are the keys of a recipe's curate stage.
    """
    from luopan.cli.corpus_out import check_out
    from luopan.cli.corpus_settings import config_of, source_cap, split_words
    from luopan.cli.corpus_sources import capped, sources_of
    from luopan.corpus import curate
    from luopan.corpus.browse import CARD
    from luopan.errors import Interrupted, RecipeError
    from luopan.train.progress import make_progress

    places, settings = split_words(words)
    columns = {"text_column": text_column, "id_column": id_column, "url_column": url_column, "licence": licence}
    sources, config = capped(sources_of(places, columns), source_cap(settings)), config_of(settings, preset)
    check_out(out, sources)
    if (out / CARD).exists() and not force:
        raise RecipeError("holds a corpus already", where=out, hint="Give another --out, or --force to replace it.")
    progress = make_progress()
    try:
        made = curate(sources, config, out, watcher=progress)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on from there") from None
    finally:
        progress.finish()
    rate = made.read_bytes / 1e6 / made.seconds if made.seconds else 0.0
    if as_json:
        facts = {"path": str(made.folder), "seconds": made.seconds, "megabytes_per_second": rate}
        print_json({**facts, "card": made.card, "funnel": made.funnel})
        return
    print_funnel(made.funnel)
    speed = f"{made.seconds:.0f} s, {rate:.1f} MB/s" if made.seconds >= 1 else "under a second"
    print(f"{summary(made.card)}\n{made.folder}, {speed}; page: {made.folder / 'card.html'}")


@app.command(
    epilog=examples(
        "luopan corpus show runs/quickstart/curate",
        "luopan corpus show corpus --rejected gopher_quality --page 2",
        "luopan corpus show corpus --rejected c4/min_sentences --source web --json",
        "luopan corpus show corpus --kept train --per-page 3 --characters 2000",
    )
)
def show(
    where: Where,
    rejected: Annotated[
        str | None, typer.Option(metavar="STEP[/RULE]", help="Page through what a step, a rule or `all` rejected.")
    ] = None,
    kept: Annotated[Literal["train", "held_out"] | None, typer.Option(help="Page through what was kept.")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Of this source alone.")] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page, counted from 1.")] = 1,
    per_page: Annotated[int, typer.Option(min=1, help="Documents on a page.")] = 10,
    characters: Annotated[int, typer.Option(min=1, help="Of each text that are shown; --json gives all.")] = 400,
    as_json: JsonFlag = False,
) -> None:
    """Shows what curation left and took; with --rejected or --kept the documents themselves, page by page."""
    from luopan.corpus.browse import open_corpus, rows_of_page, rule_wanted, source_wanted
    from luopan.errors import RecipeError

    found = open_corpus(where)
    if rejected is None and kept is None:
        if source is not None or page != 1:
            raise RecipeError("--source and --page have no effect without --rejected or --kept")
        if as_json:
            print_json({"path": str(found.folder), "card": found.card, "funnel": found.funnel})
        else:
            print_funnel(found.funnel)
            print(summary(found.card))
        return
    if rejected is not None and kept is not None:
        raise RecipeError("give --rejected or --kept, not both")
    chosen = source_wanted(found, source) | (rule_wanted(found, rejected) if rejected is not None else {})
    rows, total = rows_of_page(found.folder / (kept or "rejected"), chosen, page, per_page)
    if as_json:
        facts = {"path": str(found.folder), "page": page, "pages": -(-total // per_page), "total": total}
        print_json({**facts, "more": page * per_page < total, "documents": rows})
        return
    print_page(rows, page, per_page, total, characters)


@app.command(
    name="try",
    epilog=examples(
        "luopan corpus try texts gopher_quality.min_words=30",
        "luopan corpus try crawl.jsonl.zst --preset web c4=null fineweb.max_short_lines=0.8 --sample 2000",
        "luopan corpus try quickstart gopher_quality.min_words=20 max_document_bytes=null",
    ),
)
def try_settings(
    words: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE|RECIPE|RULE=VALUE", help="Sources as for run, or a recipe; changes, if any."),
    ],
    sample: Annotated[int, typer.Option(min=1, help="About how many documents to look at.")] = 1000,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="Of a recipe with several curate stages.")] = None,
    preset: Preset = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    url_column: UrlColumn = None,
    shown: Annotated[int, typer.Option("--examples", min=0, help="Documents shown of each kind of change.")] = 3,
    characters: Annotated[int, typer.Option(min=1, help="Of each text that are shown.")] = 300,
    as_json: JsonFlag = False,
) -> None:
    """Tries changed thresholds on a sample: what each step leaves before and after, and which verdicts change.

    Nothing is written. Without a change it shows what each step leaves of the sample. Steps that need the whole corpus
    (duplicates, caps) are not tried.
    """
    from luopan.cli.corpus_sources import sides_of
    from luopan.corpus.trial import compare, draw

    columns = {"text_column": text_column, "id_column": id_column, "url_column": url_column}
    sources, before, after = sides_of(words, preset, columns, stage)
    trial = compare(draw(sources, sample), before, after)
    if as_json:
        print_json(trial_as_plain(trial))
    else:
        print_trial(trial, shown, characters)


@app.command(epilog=examples("luopan corpus card corpus", "luopan corpus card runs/quickstart/curate --html card.html"))
def card(
    where: Where,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page with pictures here.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the page; default: the folder's name.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Shows the data card: documents, tokens, sources, languages, lengths, hosts, repeated spans."""
    from luopan.corpus.browse import open_corpus, with_rejected_samples
    from luopan.errors import RecipeError

    found = open_corpus(where)
    if title is not None and html is None:
        raise RecipeError("--title has no effect without --html")
    if html is not None:
        from luopan.artifacts import atomic_write_text
        from luopan.corpus.card_page import card_html

        atomic_write_text(html, card_html(with_rejected_samples(found), found.funnel, title or name_of(found.folder)))
    if as_json:
        print_json(found.card)
        return
    print_card(found.card)
    if html is not None:
        print(f"page: {html}")


app.command(name="train-quality", epilog=EPILOG)(train_quality)


def name_of(folder: Path) -> str:
    """What a corpus is called: its folder, or its stage where the folder is `corpus` in one."""
    folder = folder.resolve()
    staged = folder.name == "corpus" and (folder.parent / "manifest.json").is_file()
    return f"{folder.parent.parent.name}/{folder.parent.name}" if staged else folder.name
