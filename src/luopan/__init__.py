"""Luopan trains small language models from raw text to an aligned chat model, out of one recipe.

    import luopan
    luopan.run("quickstart", ["sft.learning_rate=1e-3"])
    model, tokenizer = luopan.load("runs/quickstart/grpo")
    chat = luopan.TextGenerator(model, tokenizer)

Nothing heavy is imported before one of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luopan.generate.text import TextGenerator
    from luopan.pipeline.models import load
    from luopan.pipeline.run import run

_WHERE = {
    "TextGenerator": "luopan.generate.text",
    "load": "luopan.pipeline.models",
    "run": "luopan.pipeline.run",
}

__all__ = ["TextGenerator", "load", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("luopan")
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'luopan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, "__version__"])
