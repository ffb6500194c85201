"""Code: one document per file of a source tree, with its language. Whatever a file says, it is not run."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.lines import open_binary
from luopan.corpus.read_rows import Part, aside, document, too_long
from luopan.corpus.source_config import CodeSource

# Python says its encoding in one of the first two lines (PEP 263); other languages are UTF-8.
COOKIE = re.compile(rb"\A(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*([-\w.]+)")
LANGUAGES = {
    ".py": "python", ".pyi": "python", ".pyx": "cython", ".ipynb": "jupyter", ".c": "c", ".h": "c", ".cc": "c++",
    ".cpp": "c++", ".cxx": "c++", ".hpp": "c++", ".cu": "cuda", ".cs": "c#", ".java": "java", ".kt": "kotlin",
    ".scala": "scala", ".js": "javascript", ".mjs": "javascript", ".jsx": "javascript", ".ts": "typescript",
    ".tsx": "typescript", ".go": "go", ".rs": "rust", ".rb": "ruby", ".php": "php", ".swift": "swift", ".lua": "lua",
    ".pl": "perl", ".r": "r", ".jl": "julia", ".hs": "haskell", ".ml": "ocaml", ".ex": "elixir", ".erl": "erlang",
    ".clj": "clojure", ".sh": "shell", ".bash": "shell", ".sql": "sql", ".html": "html", ".css": "css",
    ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".xml": "xml", ".md": "markdown",
    ".tex": "tex", ".lean": "lean", ".v": "verilog", ".vhd": "vhdl", ".zig": "zig", ".dart": "dart",
}  # fmt: skip


def read_code(source: CodeSource, found: Found, part: Part) -> Iterator[Document | Rejected]:
    """The file as a document, or why it is none."""
    with open_binary(found.path) as file:
        data = file.read(source.max_line_bytes + 1)
    if len(data) > source.max_line_bytes:
        yield too_long(source, found, max(found.size, len(data)))
        return
    if (null := data.find(b"\0")) >= 0:
        detail = f"a zero byte at byte {null}: not a text file"
        yield aside(source, found, "binary", detail, value=null, size=len(data))
        return
    encoding = declared(data) if found.suffix.startswith(".py") else "utf-8"
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not {encoding.upper()} ({error.reason})"
        yield aside(source, found, "encoding", detail, value=error.start, size=len(data))
        return
    language = LANGUAGES.get(found.suffix.lower(), found.suffix.lstrip("."))
    yield document(source, found, text, None, {"language": language})


def declared(data: bytes) -> str:
    """The encoding that a Python file says it has, if it is one for text; UTF-8 otherwise."""
    cookie = COOKIE.match(data)
    if cookie is None:
        return "utf-8"
    name = cookie.group(1).decode("ascii", "replace")
    try:
        known = codecs.lookup(name)
    except (LookupError, UnicodeError):
        return "utf-8"
    plain = known._is_text_encoding and not known.name.endswith("escape")
    return known.name if plain and known.name not in ("idna", "punycode", "undefined", "utf-7") else "utf-8"
