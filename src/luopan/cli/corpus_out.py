"""Where `luopan corpus run` may write: a folder that can be made, and that none of its sources would read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePath

from luopan.corpus import store
from luopan.corpus.files import WILD
from luopan.corpus.source_config import CodeSource, FileSource, SourceConfig
from luopan.errors import RecipeError

PARTS = (store.TRAIN, store.HELD_OUT, store.REJECTED_PARTS)


def check_out(out: Path, sources: Sequence[SourceConfig]) -> None:
    """RecipeError if a corpus cannot be written to `out`, or if a source would read what is written there."""
    check_can_be_made(out)
    for source in sources:
        if isinstance(source, FileSource | CodeSource):
            path = source.path if isinstance(source, FileSource) else source.code
            check_apart(out.resolve(), source.name, Path(path).expanduser())


def check_can_be_made(out: Path) -> None:
    """RecipeError for a file, and for a place where no folder can be made."""
    hint = "Give a folder that can be written, such as --out corpus."
    try:
        if out.exists() and not out.is_dir():
            raise RecipeError("--out is a file, not a folder", where=out, hint=hint)
        there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryDirectory(prefix=".luopan-", dir=there):
            pass
    except OSError as error:
        what = error.strerror or str(error)
        raise RecipeError(f"--out cannot be written ({what})", where=out, hint=hint) from None


def check_apart(out: Path, name: str, path: Path) -> None:
    """RecipeError if `out` (resolved) is the source's folder, is inside of it or holds it, or its glob reads `out`."""
    if path.is_dir():
        folder = path.resolve()
        if out == folder or folder in out.parents:
            raise reads_itself(out, f"lies in the source {name}")
        if out in folder.parents:
            raise RecipeError(
                f"--out holds the source {name}, which would lie among what is written",
                where=out,
                hint="Give a folder of its own.",
            )
    elif path.is_file():
        if any(out / part in path.resolve().parents for part in PARTS):
            raise RecipeError(
                f"--out holds the source {name} in a folder that is replaced", where=out, hint="Give another folder."
            )
    elif glob_reads(path, out):
        raise reads_itself(out, f"lies in the source {name}")


def reads_itself(out: Path, what: str) -> RecipeError:
    words = f"--out {what}, so the next run would read what this one wrote"
    return RecipeError(words, where=out, hint="Give a folder outside it.")


def glob_reads(pattern: Path, out: Path) -> bool:
    """True if the glob matches `out`, a folder that holds it, or what is written there."""
    parts = pattern.absolute().parts
    plain = list(takewhile(lambda part: not set(part) & set(WILD), parts[:-1]))
    fixed = Path(*plain).resolve()
    if out != fixed and fixed not in out.parents:
        return False
    if "**" in parts:
        return True
    whole = fixed.joinpath(*parts[len(plain) :])
    written = [out / "card.json", out / "card.html", out / "funnel.json"]
    written += [out / part / "00000.parquet" for part in PARTS]
    above = [folder for folder in (out, *out.parents) if fixed in folder.parents]
    return any(PurePath(each).match(str(whole)) for each in (*above, *(out / part for part in PARTS), *written))
