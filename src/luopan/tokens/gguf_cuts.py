"""How a tokenizer cuts text before it merges, in the words of llama.cpp; or why llama.cpp cannot cut like that.

A GGUF file does not carry the cutting rule, only the name of one that is built into llama.cpp (`tokenizer.ggml.pre`).
A name is given here only where both cut alike: what our tokenizers add to a named rule (the line break after a chat
header is cut off) may be left out exactly where no merge crosses a line break, because merges on both sides of a
character that never merges do not see one another. Elsewhere the nearest name is given together with the merges to
leave out, for those who accept tokens that differ.

Compared with llama.cpp itself over a corpus of nasty strings (tests/tokens/test_gguf_llama.py). Limits: a rule that
llama.cpp imitates with another regular expression (Tekken, GPT-4o …) counts as unknown; both sides' Unicode tables
differ by a version or so, hence so may characters assigned lately.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luopan.tokens.config import CHAT_HEADER, GPT4_WORDS, LINE_BREAK

BREAK = "Ċ"  # a line break in the alphabet that stands for bytes
# GPT-4's words where marks belong to the letters, as Qwen 3.5's tokenizer file has them.
_MARKED_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pattern(text: str) -> str:
    """A regular expression as one of the words below, so that none can be spelt like another."""
    return f"/{text}/"


_LLAMA3, _QWEN2, _QWEN35 = (_pattern(text) for text in (GPT4_WORDS % "{1,3}", GPT4_WORDS % "", _MARKED_WORDS))
_OURS_ALONE = (_pattern(CHAT_HEADER), _pattern(LINE_BREAK))
# Cutting rule -> (the name, whether a word that is a token is taken whole: `ignore_merges`).
_NAMES: Mapping[tuple[str, ...], tuple[tuple[str, bool], ...]] = {
    ("words",): (("gpt-2", False),),
    ("digits", "words"): (("smollm", False),),
    (_LLAMA3, "bytes"): (("llama-bpe", True), ("dbrx", False)),
    (_QWEN2, "bytes"): (("qwen2", False),),
    (_QWEN35, "bytes"): (("qwen35", False),),
}
_ADVICE = "Train the tokenizer with `whitespace: lines`, whose rule llama.cpp has"


@dataclass(frozen=True)
class Cuts:
    """llama.cpp's name of the rule. `obstacle`: why it is not the same one; `dropped`: merges to leave out then.

    With an obstacle and a name, the name is the nearest rule; without a name there is none near.
    """

    name: str | None
    obstacle: str | None = None
    hint: str | None = None
    dropped: frozenset[int] = frozenset()


def find_cuts(pre_tokenizer: Mapping[str, Any] | None, model: Mapping[str, Any]) -> Cuts:
    """The rule of a `tokenizer.json`: its `pre_tokenizer` and `model` (a BPE on bytes)."""
    steps = [_word(step) for step in _flat(pre_tokenizer)]
    ours = [step for step in steps if step in _OURS_ALONE]
    rest = tuple(step for step in steps if step not in ours)
    whole_words = bool(model.get("ignore_merges"))
    names = {whole: name for name, whole in _NAMES.get(rest, ())}
    name = names.get(whole_words)
    if name is None:
        return Cuts(None, _unknown(rest, whole_words, bool(names)), _ADVICE if ours else None)
    if not ours:
        return Cuts(name)
    crossing = [at for at, (left, right) in enumerate(pairs(model)) if BREAK in left + right]
    if not crossing:
        return Cuts(name)
    header = _OURS_ALONE[0] in ours
    what = f"{'the first line break after a control token' if header else 'every line break'} a token of its own"
    return Cuts(
        name,
        f"it makes {what}, which llama.cpp cannot, and {len(crossing)} of its merges join line breaks",
        _ADVICE,
        frozenset(crossing),
    )


def pre_tokenizer_named(name: str | None) -> Any:
    """The rule of that name for the `tokenizers` library; None for one that is not known here."""
    from tokenizers import Regex, pre_tokenizers

    for steps, names in _NAMES.items():
        if name not in [each for each, _ in names]:
            continue
        made: list[Any] = []
        for step in steps:
            if step == "digits":
                made.append(pre_tokenizers.Digits(individual_digits=True))
            elif step in ("words", "bytes"):
                made.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step == "words"))
            else:
                made.append(pre_tokenizers.Split(Regex(step[1:-1]), behavior="isolated"))
        return pre_tokenizers.Sequence(made)
    return None


def pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges of a BPE model, in either form that `tokenizer.json` has had."""
    for merge in model.get("merges", ()):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for inner in step["pretokenizers"]:
            yield from _flat(inner)
    else:
        yield step


def _word(step: Mapping[str, Any]) -> str:
    """One step as a word of `_NAMES`: a known one, a regular expression, or a description that is none of them."""
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    pattern = step.get("pattern") or {}
    text = pattern.get("Regex", pattern.get("String"))
    alone = step.get("behavior") == "Isolated" and not step.get("invert")
    matched = step.get("behavior") == "Removed" and step.get("invert")  # the same for a pattern that leaves nothing out
    if kind == "Split" and text is not None:
        word = _pattern(str(text))
        if alone or (matched and word in (_LLAMA3, _QWEN2, _QWEN35)):
            return "digits" if text == r"\p{N}" else word
    options = ", ".join(f"{key}={value}" for key, value in step.items() if key not in ("type", "pattern"))
    return f"{kind}({text or ''}{'; ' if text and options else ''}{options})"


def _unknown(rest: Sequence[str], whole_words: bool, near: bool) -> str:
    if near:
        return (
            f"it cuts as llama.cpp can, but with ignore_merges {str(whole_words).lower()}, which llama.cpp then cannot"
        )
    shown = " then ".join(step if len(step) <= 60 else f"{step[:57]}…" for step in rest) or "nothing"
    return f"it cuts text by {shown}, which is no rule of llama.cpp's"
