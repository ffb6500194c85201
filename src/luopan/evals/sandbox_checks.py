"""Tests as single checks: what counts as one, and what is said when it fails.

Four forms are known: a function `check(candidate)` (HumanEval), functions `test_…()` without arguments, plain
assertions, and a list of sources, one check each. In the first and third form every statement that holds an assertion
is a check; what stands between them is their setting. An assertion that fails says its own text and, if it compares,
what it got.
"""

from __future__ import annotations

import ast
import builtins
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_FAIL, _NOTE, _GOT, _ERROR = "__luopan_fail__", "__luopan_note__", "__luopan_got__", "__luopan_error__"
_NOTHING = object()
_LONGEST = 400


class Enough(BaseException):
    """A check has failed and no more need to be tried."""


@dataclass
class Tally:
    """What became of each check: None while it has not been tried, "" if it passed, else why it failed."""

    results: list[str | None] = field(default_factory=list)
    stop_at_first: bool = True

    def note(self, number: int, error: BaseException | None) -> None:
        self.results[number] = "" if error is None else reason_of(error)
        if error is not None and self.stop_at_first:
            raise Enough


class Tests:
    """Sources of tests, parsed and split. SyntaxError or ValueError where they are no tests."""

    def __init__(self, sources: Sequence[str], entry_point: str) -> None:
        self.entry_point = entry_point
        trees = [ast.parse(source) for source in sources]
        functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
        self.names = _free_names(trees) | ({entry_point} if entry_point else set())
        self.check = [node for node in functions if node.name == "check" and len(node.args.args) == 1][-1:]
        self.tests = [node.name for node in functions if node.name.startswith("test") and not node.args.args]
        if self.check and not entry_point:
            raise ValueError("a function check(candidate) needs an entry_point")
        self.count = 0
        if self.check:
            self.check[0].body = self._split(self.check[0].body)
        elif not self.tests:
            for tree in trees:
                tree.body = self._split(tree.body) if len(trees) == 1 else [self._noted(tree.body)]
        self.whole = not (self.count or self.tests)
        if self.whole and not self.check:
            raise ValueError("there is no assertion in the tests")
        self.codes = [compile(_told(tree), "<tests>", "exec") for tree in trees]

    def run(self, namespace: dict[str, Any], tally: Tally) -> None:
        """Run all in a namespace that holds what the tests are about; results go into the tally."""
        tally.results[:] = [None] * (self.count or len(self.tests) or 1)
        namespace.update({_NOTE: tally.note, _FAIL: _fail})
        if self.entry_point in namespace:
            namespace["candidate"] = namespace[self.entry_point]
        try:
            for code in self.codes:
                exec(code, namespace)
            if self.check:
                namespace["check"](namespace[self.entry_point])
            else:
                for number, name in enumerate(self.tests):
                    _attempt(tally, number, namespace[name])
        except Enough:
            return
        except Exception as error:
            remaining = [number for number, result in enumerate(tally.results) if result is None]
            for number in remaining:
                tally.results[number] = reason_of(error)
            return
        tally.results[:] = [result or "" for result in tally.results]

    def _split(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [self._noted([node]) if _asserts(node) else node for node in body]

    def _noted(self, body: list[ast.stmt]) -> ast.stmt:
        """The statements in a `try` that notes how check number n went."""
        number, self.count = self.count, self.count + 1
        frame = ast.parse(
            f"try: pass\nexcept Exception as {_ERROR}: {_NOTE}({number}, {_ERROR})\nelse: {_NOTE}({number}, None)"
        ).body[0]
        assert isinstance(frame, ast.Try)
        frame.body = body
        return frame


def reason_of(error: BaseException) -> str:
    """An error in a line: an assertion's own text, else type and message."""
    text = str(error)
    named = text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
    return named if len(named) <= _LONGEST else named[: _LONGEST - 1] + "…"


def _attempt(tally: Tally, number: int, test: Callable[[], object]) -> None:
    try:
        test()
    except Exception as error:
        tally.note(number, error)
    else:
        tally.note(number, None)


def _asserts(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(isinstance(part, ast.Assert) for part in ast.walk(node))


class _Teller(ast.NodeTransformer):
    """Turns `assert` into a call that says what was asserted and what was got instead."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        text = ast.unparse(ast.Assert(test=node.test, msg=None))
        test, got = node.test, ast.parse(f"{_GOT} = None", mode="exec").body
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            test.left = ast.NamedExpr(ast.Name(_GOT, ast.Store()), test.left)
        call = ast.Call(
            ast.Name(_FAIL, ast.Load()),
            [ast.Constant(text), ast.Name(_GOT, ast.Load()), ast.Constant(isinstance(test, ast.Compare))],
            [ast.keyword("said", node.msg)] if node.msg else [],
        )
        return [*got, ast.If(ast.UnaryOp(ast.Not(), test), [ast.Expr(call)], [])]


def _told(tree: ast.Module) -> ast.Module:
    told: ast.Module = ast.fix_missing_locations(_Teller().visit(tree))
    return told


def _fail(text: str, got: object, compared: bool, said: object = _NOTHING) -> None:
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 120
    told = f"{text}: got {short.repr(got)}" if compared else text
    raise AssertionError(told if said is _NOTHING else f"{told} ({str(said)[:120]})")


def _free_names(trees: Sequence[ast.Module]) -> set[str]:
    """Names that the tests use and neither they nor Python define."""
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    return used - {name.id for name in names if isinstance(name.ctx, ast.Store)} - set(vars(builtins))
