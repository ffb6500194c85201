"""Options shared by verbs and shown in groups: a decorator that adds them to a function, and the help that says so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from typer.core import TyperCommand, TyperOption

_OTHERS = "Options"


class GroupedCommand(TyperCommand):
    """A command whose help shows its options under the headings of their `rich_help_panel`, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options without a heading, then those with one in the order they were declared."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], _OTHERS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            kind = _OTHERS if isinstance(parameter, TyperOption) or parameter.name == "help" else "Arguments"
            groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def with_options(options: Mapping[str, Any], into: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds `options` {name: Annotated[type, typer.Option(...)]}, all None by default, to a verb's function.

    The function gets them as a dictionary, its parameter `into`, without those that were not given.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [one for name, one in signature.parameters.items() if name != into]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in options.items()
        ]

        @functools.wraps(function)
        def verb(**values: Any) -> None:
            chosen = {name: value for name in options if (value := values.pop(name)) not in (None, [], ())}
            function(**values, **{into: chosen})

        verb.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
        verb.__annotations__ = {one.name: one.annotation for one in (*own, *more)}
        return verb

    return add
