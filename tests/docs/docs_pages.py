"""Markdown pages as the tests of the documentation see them: fenced blocks, links, headings, commands.

What the word after a block's language asks for:

    ```python run          executed, all blocks of a page in one namespace and one folder
    ```console run         every `$ command` is run and must print what stands below it
    ```yaml recipe         a whole recipe: must load
    ```yaml stages         a map of stage names to stages: each must be valid
    ```text file=NAME      written to the page's folder first (with any language)

Blocks without such a word are still checked: Python must parse and its `luopan` imports must exist, `$ luopan …` must
be a command line that parses.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_AT_THE_TOP = ("README.md", "README.zh.md", "AGENTS.md", "CHANGELOG.md")
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in _AT_THE_TOP if (ROOT / name).is_file())])

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, its text, and the line its text begins on."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name it is written under, if it asks for one."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    def commands(self) -> list[tuple[str, list[str]]]:
        """(command, lines printed) for every `$ ` line; a line that ends in a backslash goes on in the next.

        In a block without any `$ `, every line is a command.
        """
        found: list[tuple[str, list[str]]] = []
        lines = self.text.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            lines = [f"$ {line}" for line in lines if line.strip()]
        while lines:
            line = lines.pop(0)
            if line.startswith("$ "):
                command = line[2:]
                while command.endswith("\\") and lines:
                    command = command[:-1] + lines.pop(0).strip().removeprefix("> ")
                found.append((command, []))
            elif found:
                found[-1][1].append(line)
        return found


def parts(page: Path) -> tuple[list[Block], list[tuple[int, str]]]:
    """The fenced blocks of a page, and its other lines with their numbers."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    fence, indent, start, held = "", 0, 0, []
    language, words = "", ()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            if match and match["fence"].startswith(fence) and not match["info"].strip():
                blocks.append(Block(page, start, language, words, "\n".join(held) + "\n"))
                fence = ""
            else:
                held.append(line[indent:] if line[:indent].isspace() else line)
        elif match:
            fence, indent, start, held = match["fence"], len(match["indent"]), number + 1, []
            language, *rest = match["info"].split() or [""]
            words = tuple(rest)
        else:
            prose.append((number, line))
    assert not fence, f"{page}: the block at line {start - 1} is never closed"
    return blocks, prose


def links(prose: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(line, target) of every link and picture."""
    for number, line in prose:
        plain = _CODE.sub("", line)
        for pattern in (_LINK, _PICTURE):
            yield from ((number, match["target"]) for match in pattern.finditer(plain))


def anchors(prose: list[tuple[int, str]]) -> set[str]:
    """The anchors that GitHub gives the headings."""
    found: set[str] = set()
    for _, line in prose:
        if match := re.match(r"#{1,6}\s+(.*?)\s*#*$", line):
            words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            count, name = 0, slug
            while name in found:
                count += 1
                name = f"{slug}-{count}"
            found.add(name)
    return found


def spans(prose: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(line, text) of every `code span`."""
    for number, line in prose:
        yield from ((number, match[1]) for match in _CODE.finditer(line))


def luopan_calls(command: str) -> list[list[str]]:
    """The words of every `luopan …` in a shell line, pipes and redirections taken off."""
    found: list[list[str]] = []
    words = shlex.split(command, comments=True)
    current: list[str] | None = None
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("|", "||", "&&", ";", "&"):
            current = None
        elif word in (">", ">>", "<", "2>"):
            skip = True
        elif re.fullmatch(r"\d?>{1,2}&?\S+", word) or (current is None and re.fullmatch(r"[A-Z_]+=\S*", word)):
            continue
        elif current is not None:
            current.append(word)
        elif word == "luopan" or word.endswith("/luopan"):
            current = []
            found.append(current)
        else:
            current = None
    return found


def same_output(expected: list[str], printed: list[str]) -> bool:
    """Whether lines are as expected; `…` stands for any text in a line, alone on a line for any number of lines."""
    while expected and not expected[-1].strip():
        expected = expected[:-1]
    while printed and not printed[-1].strip():
        printed = printed[:-1]
    pattern = "".join(
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else ".*".join(re.escape(piece) for piece in line.rstrip().split("…")) + r"\s*?\n"
        for line in expected
    )
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in printed)) is not None
