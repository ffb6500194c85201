"""What the documentation says is so: its Python runs, its commands parse, its links lead somewhere, no room is missing.

The words after a block's language are explained in `docs_pages.py`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_pages import PAGES, ROOT, Block, anchors, links, luopan_calls, parts, same_output, spans

import luopan
from luopan.cli.main import VERBS, run_verb

PACKAGE = Path(luopan.__file__).parent
READ = {page: parts(page) for page in PAGES}
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PAGE_OF_ROOM = {"recipe": "recipes.md", "synth": "synthesize.md"}
NO_ROOM = {"recipes"}  # shipped YAML: described in recipes.md


def blocks_of(language: str, word: str | None = None) -> list[Block]:
    """All blocks of a language, or those with a word after it."""
    return [
        block
        for blocks, _ in READ.values()
        for block in blocks
        if block.language == language and (word is None or word in block.words)
    ]


def by_where(blocks: list[Block]) -> dict[str, Any]:
    """Arguments for a parametrised test over blocks."""
    return {"argvalues": blocks, "ids": [block.where for block in blocks]}


def pages_with(word: str) -> list[Path]:
    """Pages that hold something to execute."""
    return [page for page, (blocks, _) in READ.items() if any(word in block.words for block in blocks)]


# ------------------------------------------------------------------------------------------------------ what is run


@pytest.mark.parametrize("page", pages_with("run"), ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.xdist_group("docs")
def test_what_a_page_runs_does_what_it_says(page: Path, place: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    for block in READ[page][0]:
        if block.file:
            target = place / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        if "run" not in block.words:
            continue
        if block.language == "python":
            run_python(block, namespace)
        elif block.language == "console":
            run_console(block)
        else:
            pytest.fail(f"{block.where}: only python and console blocks can be run")


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Executes a block; a line `# -> text` at the end of a statement must be what the statement prints."""
    code = "\n" * (block.line - 1) + block.text
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, block.where, "exec"), namespace)
    wanted = re.findall(r"#\s*->\s?(.*)$", block.text, re.MULTILINE)
    if wanted:
        said = printed.getvalue().splitlines()
        assert same_output(wanted, said), f"{block.where} printed\n" + "\n".join(said)


def run_console(block: Block) -> None:
    """Runs each command; `luopan` in this process, the rest in a shell. `$?` is the exit code of the one before."""
    code = 0
    for command, expected in block.commands():
        if command.strip() == "echo $?":
            said = [str(code)]
        elif command.startswith("luopan "):
            (words,) = luopan_calls(command)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = run_verb(words[0], words[1:])
            said = out.getvalue().splitlines()
        else:
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            code, said = done.returncode, (done.stdout + done.stderr).splitlines()
        assert same_output(expected, said), f"{block.where}: $ {command}\nprinted\n" + "\n".join(said)


# ------------------------------------------------------------------------------------------- what is only looked at


@pytest.mark.parametrize("block", **by_where(blocks_of("python")))
def test_python_parses_and_its_imports_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, block.where)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("luopan"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("luopan"):
                    importlib.import_module(alias.name)


def command_lines() -> list[tuple[str, list[str]]]:
    """(where, words) of every `$ luopan …` in the pages that is not run anyway."""
    return [
        (block.where, words)
        for block in blocks_of("console")
        if "run" not in block.words
        for command, _ in block.commands()
        for words in luopan_calls(command)
    ]


@pytest.mark.parametrize(
    ("where", "words"), command_lines(), ids=lambda value: None if isinstance(value, list) else value
)
def test_command_lines_parse(where: str, words: list[str]) -> None:
    if not words or words[0] in ("--help", "--version"):
        return
    verb, arguments = words[0], words[1:]
    assert verb in VERBS, f"{where}: there is no verb {verb}"
    parse(importlib.import_module(f"luopan.cli.{verb}_verb").app, verb, arguments, where)
    if verb == "run" and not shows_an_error(where):
        check_overrides(arguments, where)


def parse(app: Any, verb: str, arguments: list[str], where: str) -> None:
    """Lets the verb's own parser read the words; nothing is run."""
    from typer.main import get_command

    command, name, words = get_command(app), f"luopan {verb}", list(arguments)
    try:
        while True:
            # A group leaves the words of its subcommand over.
            context = command.make_context(name, words)
            if not hasattr(command, "resolve_command"):
                return
            rest = [*getattr(context, "_protected_args", []), *context.args]
            if not rest:
                return
            sub, command, words = command.resolve_command(context, rest)
            name = f"{name} {sub}"
    except Exception as error:
        if type(error).__name__ != "Exit":  # --help
            pytest.fail(f"{where}: luopan {verb} {' '.join(arguments)}: {error!r}")


def shows_an_error(where: str) -> bool:
    """Whether the block is a transcript of something that went wrong."""
    return any(block.where == where and "\nerror: " in block.text for block in blocks_of("console"))


def check_overrides(arguments: list[str], where: str) -> None:
    """The overrides of `luopan run SHIPPED key=value` must be accepted."""
    from luopan.recipe.load import load_recipe, shipped_recipes

    if arguments[:1] and arguments[0] in shipped_recipes():
        load_recipe(arguments[0], [word for word in arguments[1:] if "=" in word and not word.startswith("-")])


@pytest.mark.parametrize("block", **by_where(blocks_of("yaml", "recipe")))
def test_recipes_load(block: Block) -> None:
    from luopan.recipe.load import check_recipe
    from luopan.recipe.specs import Recipe
    from luopan.recipe.yaml_source import parse_yaml

    check_recipe(parse_yaml(block.text, block.where), (), Recipe)


@pytest.mark.parametrize("block", **by_where(blocks_of("yaml", "stages")))
def test_stages_are_valid(block: Block) -> None:
    import json

    from pydantic import TypeAdapter

    from luopan.recipe.specs import StageSpec
    from luopan.recipe.yaml_source import parse_yaml

    data = parse_yaml(block.text, block.where).data
    assert isinstance(data, dict) and data
    for stage in data.values():
        TypeAdapter(StageSpec).validate_json(json.dumps(stage), strict=True)


# ---------------------------------------------------------------------------------------------- what is pointed at


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for number, target in links(READ[page][1]):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), f"{page}:{number}: {target}"
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page}:{number}: {target} does not exist"
        assert there.is_relative_to(ROOT), f"{page}:{number}: {target} leaves the repository"
        if anchor and there.suffix == ".md":
            headings = READ[there][1] if there in READ else parts(there)[1]
            assert anchor in anchors(headings), f"{page}:{number}: no heading {anchor} in {there.name}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_names_in_code_spans_exist(page: Path) -> None:
    for number, text in spans(READ[page][1]):
        name = text.removesuffix("()").partition("(")[0].strip()
        if re.fullmatch(r"luopan(\.\w+)+", name):
            assert resolves(name), f"{page}:{number}: there is no {name}"
        elif re.fullmatch(r"(src|tests|docs|tools|benchmarks|\.ci)/[\w./-]+", name):
            assert (ROOT / name).exists(), f"{page}:{number}: there is no {name}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:count]))
        except ImportError:
            continue
        for word in words[count:]:
            fields = getattr(found, "model_fields", {}) or getattr(found, "__dataclass_fields__", {})
            if word not in fields and not hasattr(found, word):
                return False
            found = getattr(found, word, None)
        return True
    return False


def rooms() -> Iterator[str]:
    """The rooms of the package that hold code."""
    for folder in sorted(PACKAGE.iterdir()):
        if folder.is_dir() and folder.name not in NO_ROOM and any(folder.glob("*.py")):
            yield folder.name


@pytest.mark.parametrize("room", list(rooms()))
def test_every_room_has_a_page_and_the_map_leads_to_it(room: str) -> None:
    page = ROOT / "docs" / PAGE_OF_ROOM.get(room, f"{room}.md")
    assert page.is_file(), f"docs/{page.name} is missing"
    assert f"({page.name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_every_page_is_on_the_map() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, f"docs/index.md does not lead to {page.name}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_shown_with_an_example(verb: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.search(rf"^\$ luopan {verb}\b", text, re.MULTILINE), f"docs/cli.md shows no luopan {verb}"


def test_the_recipe_reference_is_up_to_date() -> None:
    from luopan.recipe.reference_table import markdown_reference
    from luopan.recipe.specs import Recipe

    written = (ROOT / "docs" / "recipe-reference.md").read_text(encoding="utf-8")
    assert written == markdown_reference(Recipe), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_path_of_a_writer_s_machine(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        assert not re.search(r"(?<![\w.])/(work|root|home|Users|tmp)/", line), f"{page}:{number}: {line}"


# ---------------------------------------------------------------------------------------------- the tests themselves


def test_the_readers_see_what_they_should(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`\n[a](b.md#c) ![d](e.png) `[no](link)`\n"
        "```console run\n$ luopan run x \\\n    --until y | head\nout\n$ echo $?\n0\n```\n"
        "## One two\n````text file=f\n```\ninner\n```\n````\n"
    )
    blocks, prose = parts(page)
    assert [(b.language, b.words, b.file) for b in blocks] == [("console", ("run",), None), ("text", ("file=f",), "f")]
    assert blocks[0].commands() == [("luopan run x --until y | head", ["out"]), ("echo $?", ["0"])]
    assert blocks[1].text == "```\ninner\n```\n"
    assert [target for _, target in links(prose)] == ["b.md#c", "e.png"]
    assert anchors(prose) == {"one-two", "one-two-1"}
    assert luopan_calls("A=1 luopan run x a=b 2>&1 | luopan chat y > out.txt") == [["run", "x", "a=b"], ["chat", "y"]]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a"], ["a"], True),
        (["a"], ["b"], False),
        (["a"], ["a", "b"], False),
        (["a … c"], ["a b c"], True),
        (["…", "b"], ["x", "y", "b"], True),
        (["a", "…"], ["a"], True),
        (["a", "…", "c"], ["a", "b"], False),
    ],
)
def test_output_is_compared(expected: list[str], printed: list[str], same: bool) -> None:
    assert same_output(expected, printed) is same


def test_a_wrong_name_and_a_wrong_flag_are_seen() -> None:
    assert not resolves("luopan.tokens.chat.no_such_function") and resolves("luopan.tokens.chat.encode_chat")
    app = importlib.import_module("luopan.cli.run_verb").app
    with pytest.raises(pytest.fail.Exception):
        parse(app, "run", ["quickstart", "--untill", "sft"], "here")
    with pytest.raises(luopan_error()):
        check_overrides(["quickstart", "sft.lerning_rate=1"], "here")


def luopan_error() -> type[Exception]:
    from luopan.errors import LuopanError

    return LuopanError
