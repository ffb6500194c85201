"""Ollama's `Modelfile` beside a GGUF file: the template, where to stop, how to sample, the system prompt.

`ollama create NAME -f Modelfile` reads it. Ollama itself was not at hand where this was written: the template is
tested with Go's text/template and Ollama's published data, the file's grammar by its documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luopan.errors import ModelError
from luopan.pipeline.ollama_templates import go_template
from luopan.tokens.gguf_vocab import Vocabulary
from luopan.tokens.templates import identify

_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


@dataclass(frozen=True)
class Modelfile:
    """The file's text, and what there is to know about it."""

    text: str
    notes: list[str] = field(default_factory=list)


def modelfile(
    vocabulary: Vocabulary,
    file: str,
    *,
    context: int,
    sampling: Mapping[str, Any] | None = None,
    system: str | None = None,
) -> Modelfile:
    """`sampling`: as `default_sampling` has it, empty for greedy. Raises ModelError for a system prompt that holds
    three quotation marks in a row.
    """
    notes: list[str] = []
    lines = [f"FROM {file}", "", *_template(vocabulary, notes)]
    lines += [f"PARAMETER stop {quoted(vocabulary.tokens[at])}" for at in vocabulary.stops]
    lines.append(f"PARAMETER num_ctx {context}")
    # Ollama's own defaults are temperature 0.8 and a repetition penalty of 1.1; the model's are other ones.
    given = {"temperature": 0, **(sampling or {})}
    given.setdefault("repetition_penalty", 1)
    lines += [f"PARAMETER {name} {given[key]:g}" for key, name in _PARAMETERS.items() if key in given]
    if system is not None:
        lines += ["", f"SYSTEM {quoted(system, always_three=True)}"]
    return Modelfile("\n".join(lines) + "\n", notes)


def quoted(text: str, *, always_three: bool = False) -> str:
    """A value of a Modelfile: in one quotation mark each side, or three where it holds one itself.

    Ollama knows no escapes (its `parser.go`, read on 2026-11-23): a value ends with the first line that ends on the
    mark it began with, and between the outermost marks everything is taken as it is. So a text that ends on `"`
    gives four in a row, which is read right; one that holds three is refused with ModelError.
    """
    if '"""' in text:
        raise ModelError(f'{shortened(text)} holds """, which ends a text in a Modelfile')
    mark = '"""' if always_three or '"' in text else '"'
    return f"{mark}{text}{mark}"


def shortened(text: str) -> str:
    """The beginning of a text, for a message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _template(vocabulary: Vocabulary, notes: list[str]) -> list[str]:
    """The TEMPLATE lines, or a remark that says what Ollama does without them."""
    source = vocabulary.chat_template
    if source is None:
        notes.append("the Modelfile has no template: this model continues text and does not chat")
        return ["# No chat template: the prompt is continued as it is.", 'TEMPLATE """{{ .Prompt }}"""']
    info = identify(source)
    bos = "" if vocabulary.add_bos or "bos" not in vocabulary.special else vocabulary.tokens[vocabulary.special["bos"]]
    made = go_template(info.name, bos) if info is not None else None
    if made is None:
        what = f"the template {info.name}" if info is not None else "this model's own template"
        notes.append(
            f"the Modelfile has no TEMPLATE: {what} is not written in Ollama's language here; Ollama takes one of its "
            "own that resembles the GGUF's, which is to be checked (`ollama show --template`)"
        )
        return [f"# No TEMPLATE: {what} is in the GGUF as Jinja. Ollama picks one that resembles it: check it.", ""]
    return [f'TEMPLATE """{made}"""', ""]
