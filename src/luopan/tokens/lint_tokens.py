"""Template and tokenizer together: BOS, padding, stop and control tokens, dates, defaults, parsers, training."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.chat import encode_chat, encode_prompt
from luopan.tokens.lint_probe import CONTROL, FAKE_DATE, Probe, call, result, says, system, tool, user
from luopan.tokens.lint_report import Finding
from luopan.tokens.lint_spans import turn_end
from luopan.tokens.templates import TemplateInfo, identify

_DATE = re.compile(
    r"\b(?:\d{4}-\d{2}-\d{2}|\d{1,2}\.? (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d{4})\b"
)
_TOOL_PARSERS = (  # what a call looks like, vLLM's name, SGLang's
    (r"<tool_call>\s*<function=", "qwen3_coder", "qwen3_coder"),
    (r"<tool_call>\s*\{", "hermes", "qwen25"),
    (r"<\|python_tag\|>", "llama3_json", "llama3"),
    (r"\[TOOL_CALLS\]", "mistral", "mistral"),
    (r"<｜tool▁calls▁begin｜>", "deepseek_v3", "deepseekv3"),
    (r"<\|channel\|>commentary to=", "openai", "gpt-oss"),
    (r"<\|tool_call\|>", "granite", ""),
    (r'\{"name": "Zqtoolqz", "parameters"', "llama3_json", "llama3"),
)


def check_tokens(probe: Probe, generation_eos: Sequence[int] | None, *, training: bool = True) -> Iterator[Finding]:
    """All rules of this module; those about `training`'s tokens can be left out."""
    info = identify(probe.source)
    yield from _beginning(probe)
    yield from _stops(probe, info, generation_eos)
    yield from _control_tokens(probe, info)
    yield from _dates(probe)
    yield from _defaults(probe)
    if training:
        yield from _training(probe)
    yield from _parsers(probe, info)


def _beginning(probe: Probe) -> Iterator[Finding]:
    """One token at the beginning of the text: not two, and not none where the tokenizer wants one."""
    bos, tokenizer = probe.tokenizer.bos_token, probe.tokenizer
    text = probe.render([user(), says(), user(), says()]).text
    if not isinstance(bos, str) or not bos or not text:
        return
    adds = list(tokenizer("a").input_ids)[:1] == [tokenizer.bos_token_id]
    hint = "write bos_token in the template once, and encode rendered text with add_special_tokens=False"
    if text.startswith(bos) and adds:
        yield Finding("double-bos", "error", "bos_token", f"template and tokenizer both write {bos}: it stands twice "
                      "wherever rendered text is encoded with special tokens", hint, bos + text[:60])  # fmt: skip
    elif text.count(bos) > 1 and bos != turn_end(probe) and bos != tokenizer.eos_token and text.startswith(bos + bos):
        yield Finding("double-bos", "error", "bos_token", f"the template writes {bos} more than once", hint, text[:80])
    elif adds and bos not in text:
        message = (
            f"the tokenizer begins texts with {bos}, the template does not, so chats begin unlike the pre-training"
        )
        yield Finding("no-bos", "warning", "bos_token", message, "begin the template with {{- bos_token -}}", text[:60])


def _stops(probe: Probe, info: TemplateInfo | None, generation_eos: Sequence[int] | None) -> Iterator[Finding]:
    """Padding is another token than those that stop, and the token that ends a turn is announced as one that stops."""
    tokenizer, end = probe.tokenizer, turn_end(probe)
    vocabulary = tokenizer.get_vocab()
    ends = {end, *(info.stop if info else ())} - {""}
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    hint = "give padding a token of its own: trainers that mask padding mask the stop token, and the model never stops"
    if pad is None:
        yield Finding("no-pad", "info", "pad_token", "there is no padding token; trainers will choose one", hint)
    elif pad in ends or pad == eos:
        severity: Any = "error" if pad in ends else "warning"
        word = "ends a turn" if pad in ends else "ends a text (eos_token)"
        yield Finding("pad-is-stop", severity, "pad_token", f"padding is {pad}, the token that {word}", hint)
    announced = {tokenizer.eos_token_id, *(generation_eos or ())}
    if end and end in vocabulary and vocabulary[end] not in announced:
        hint = f"set eos_token to {end}, or list it in generation_config.json (eos_token_id)"
        message = f"a turn ends on {end}, which neither eos_token ({eos}) nor generation_config names: engines run on"
        yield Finding("stop-unannounced", "warning", "eos_token", message, hint)


def _control_tokens(probe: Probe, info: TemplateInfo | None) -> Iterator[Finding]:
    """Each control token is one token of the vocabulary."""
    vocabulary = probe.tokenizer.get_vocab()
    written = set(CONTROL.findall(_everything(probe))) | set(info.tokens if info else ())
    mentioned = set(CONTROL.findall(probe.source)) - written
    for tokens, severity in ((written, "error"), (mentioned, "warning")):
        for token in sorted(tokens - set(vocabulary)):
            count = len(probe.tokenizer(token, add_special_tokens=False).input_ids)
            message = f"{token} is no token of the vocabulary but {count} pieces of text, which a user can type as well"
            hint = "add it (luopan tokenizer extend, or add_tokens of the import stage), or use a template that fits"
            level: Any = severity
            yield Finding("control-token", level, token, message, hint)


def _everything(probe: Probe) -> str:
    """A text of each kind of message that the template takes."""
    called = [user(), says("", tool_calls=[call()]), result("rain"), says()]
    talks: list[tuple[list[dict[str, Any]], Any]] = [
        ([system("s"), user(), says(reasoning_content="t"), user(), says()], None), ([user(), says()], None),
        (called, [tool()]), ([user(), says("", tool_calls=[call()])], [tool()]),
        ([user(), says(reasoning_content="t")], None),
    ]  # fmt: skip
    texts = [probe.render(messages, tools=tools).text for messages, tools in talks]
    texts += [probe.render(messages[:-1], tools=tools, prompt=True).text for messages, tools in talks]
    return "\n".join(texts)


def _dates(probe: Probe) -> Iterator[Finding]:
    hint = "take the date as an argument of the template, and fix it in the recipe (chat_template_kwargs)"
    if "strftime_now" in probe.source:
        text = _everything(probe)
        at = text.find(FAKE_DATE)
        example = text[max(0, at - 60) : at + 30] if at >= 0 else ""
        message = "the template writes the day on which it is rendered (strftime_now), which is then trained on"
        yield Finding("own-date", "error", "system", message, hint, example)
    elif found := _DATE.search(_everything(probe)):
        message = f"the template writes a date of its own: {found[0]}"
        yield Finding("own-date", "error", "system", message, hint, found[0])


def _defaults(probe: Probe) -> Iterator[Finding]:
    """A system prompt where none was given."""
    said = "Zquoneqz"
    text = probe.render([user(said), says("Zqaoneqz"), user("Zqutwoqz"), says()], enable_thinking=False).text
    end = turn_end(probe)
    first = text[: text.find(said)]
    later = text[text.find("Zqaoneqz") + len("Zqaoneqz") : text.find("Zqutwoqz")].removeprefix(end).lstrip()
    own = first.removesuffix(later) if later else first
    words = CONTROL.sub("", own)
    for token in probe.added:
        words = words.replace(token, "")
    if later and first.endswith(later) and re.search(r"[^\W\d_]{2,}", words):
        message = "without a system message it writes one of its own"
        yield Finding(
            "default-system", "info", "system", message, "give a system message where that is not wanted", own
        )


def _training(probe: Probe) -> Iterator[Finding]:
    """What is trained here is what the model sees at inference, token by token."""
    tokenizer = copy.copy(probe.tokenizer)
    tokenizer.chat_template = probe.renderable
    talk = [user("Where is it?"), says("Here."), user("And 4?"), says("There.")]
    for train_on in ("assistant", "last_turn"):
        try:
            example = encode_chat(tokenizer, talk, train_on=train_on)  # type: ignore[arg-type]
            prompt = encode_prompt(tokenizer, talk[:-1], keep_thinking=True)
        except LuopanError as error:
            if train_on == "last_turn":
                yield Finding(
                    "untrainable", "error", "assistant", f"training refuses it: {error.message}", error.hint or ""
                )
            else:
                hint = "train on the last turn only (train_on: last_turn)"
                yield Finding("rewrites-history", "warning", "training", error.message, hint)
            continue
        if list(example.input_ids[: len(prompt)]) != prompt:
            yield Finding("tokens-differ", "error", "assistant", "the prompt's tokens are others than in training", "")
        break
    yield from _border(tokenizer, probe, talk)


def _border(tokenizer: PreTrainedTokenizerFast, probe: Probe, talk: list[dict[str, Any]]) -> Iterator[Finding]:
    prompt, whole = probe.render(talk[:-1], prompt=True).text, probe.render(talk).text
    if not prompt or not whole.startswith(prompt):
        return
    asked = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    if list(tokenizer(whole, add_special_tokens=False).input_ids)[: len(asked)] != asked:
        message = (
            "the prompt's last characters merge with the answer into one token when the text is encoded in one piece"
        )
        hint = "here both are encoded apart; elsewhere end the prompt on a control token or a line break"
        yield Finding("border-merges", "warning", "generation prompt", message, hint, prompt[-40:])


def _parsers(probe: Probe, info: TemplateInfo | None) -> Iterator[Finding]:
    """Which parsers of vLLM and SGLang read what the template makes a model write."""
    if info:
        tools, reasons = (info.vllm_tool_parser, info.sglang_tool_parser), (
            info.vllm_reasoning_parser, info.sglang_reasoning_parser,
        )  # fmt: skip
        source = f"shipped template {info.name}"
    else:
        tools, reasons = _guess_tools(probe), _guess_reasoning(probe)
        source = "guessed from what it writes"
    for where, (vllm, sglang) in (("tool calls", tools), ("thinking", reasons)):
        if vllm or sglang:
            names = [f"{engine} {name}" for engine, name in (("vLLM", vllm), ("SGLang", sglang)) if name]
            yield Finding("parser", "info", where, f"parsers that fit ({source}): {', '.join(names)}")


def _guess_tools(probe: Probe) -> tuple[str, str]:
    text = probe.render([user(), says("", tool_calls=[call()])], tools=[tool()]).text
    answer = text[text.find("Zquserqz") :] if text else ""
    found = [(vllm, sglang) for shape, vllm, sglang in _TOOL_PARSERS if re.search(shape, answer)]
    return found[0] if found and "Zqtoolqz" in answer else ("", "")


def _guess_reasoning(probe: Probe) -> tuple[str, str]:
    text = probe.render([user(), says(reasoning_content="Zqthoughtqz")]).text
    before = text[: text.find("Zqthoughtqz")] if "Zqthoughtqz" in text else ""
    if before.rstrip().endswith("<think>"):
        return ("qwen3", "qwen3") if "enable_thinking" in probe.variables else ("deepseek_r1", "deepseek-r1")
    if before.endswith("<|channel|>analysis<|message|>"):
        return "openai_gptoss", "gpt-oss"
    return ("mistral", "") if before.endswith("[THINK]") else ("", "")
