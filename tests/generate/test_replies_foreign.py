"""Templates of other models: their format is found by trying, and read as transformers reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from replies_tokenizers import ASKED, TOOLS, bare_tokenizer, foreign, ids_of
from transformers import PreTrainedTokenizerFast

from luopan.generate.replies import ReplyFormat, Said
from luopan.generate.replies_harmony import START

# Thinking, calls' opening mark. None: Harmony.
FOUND: dict[str, tuple[bool, str] | None] = {
    "deepseek_r1_distill": (True, ""),
    "deepseekv3": (True, "<｜tool▁call▁begin｜>"),
    "gemma3": (False, ""),
    "glm4moe": (True, "<tool_call>"),
    "gptoss": None,
    "lfm2_2_5": (True, "<|tool_call_start|>"),
    "llama3": (False, ""),
    "llama3_1": (False, "<|python_tag|>"),
    "nemotron_3_nano": (True, "<tool_call>"),
    "phi3_5": (False, ""),
    "qwen2_5": (False, "<tool_call>"),
    "qwen3": (True, "<tool_call>"),
    "qwen3_5_nothink": (True, "<tool_call>"),
    "qwen3_5_think": (True, "<tool_call>"),
    "qwen3_instruct_2507": (False, "<tool_call>"),
}


@pytest.mark.parametrize("stem", FOUND)
def test_the_format_is_found(stem: str) -> None:
    style = ReplyFormat.of(foreign(stem)).style
    expected = FOUND[stem]
    if expected is None:
        assert style.tags is None and style.thinking and style.tools
        return
    assert style.tags is not None and (style.thinking, style.tools) == (expected[0], bool(expected[1]))
    assert (style.tags.calls[0].start if style.tags.calls else "") == expected[1]


def rendered(tokenizer: PreTrainedTokenizerFast, message: dict[str, Any], **arguments: Any) -> tuple[str, str]:
    """The prompt and the reply by transformers."""
    given: dict[str, Any] = {"tools": TOOLS, "tokenize": False, **arguments}
    prompt = str(tokenizer.apply_chat_template([ASKED], add_generation_prompt=True, **given))
    whole = str(tokenizer.apply_chat_template([ASKED, message], **given))
    if not whole.startswith(prompt):  # the prompt opens thinking, and there is none
        prompt = prompt.removesuffix("\n")
        prompt = prompt if whole.startswith(prompt) else prompt.removesuffix("<think>")
    assert whole.startswith(prompt)
    return prompt, whole[len(prompt) :]


def ours(tokenizer: PreTrainedTokenizerFast, prompt: str, reply: str) -> Said:
    return ReplyFormat.of(tokenizer).parse(ids_of(tokenizer, reply), ids_of(tokenizer, prompt), TOOLS)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


REPLIES: list[dict[str, Any]] = [
    {"content": "It rains in Ulm.\n\n- 東京 too"},
    {"content": "It is 4.", "reasoning_content": "two and two\n\nis 4"},
    {"content": "", "tool_calls": [call("weather", place='Ulm "an der" Donau')]},
    {"content": "I look.", "tool_calls": [call("add", a=1, b=2), call("weather", place="東京")]},
    {"content": "", "reasoning_content": "add them", "tool_calls": [call("add", a=1, b=2)]},
]
PEERS = [
    (stem, template, number)
    for stem, template, numbers in (
        ("qwen3", "qwen3_template", range(5)),
        ("qwen3_5_think", "qwen3_5_template", range(5)),
        ("glm4moe", "glm4moe_template", range(5)),
        ("nemotron_3_nano", "nemotron_3_template", range(5)),
        ("llama3_1", "llama3_template", (0, 2)),
        ("gptoss", "gptoss_template", (0, 2)),
    )
    for number in numbers
]


@pytest.mark.parametrize(("stem", "template", "number"), PEERS)
def test_replies_are_read_as_transformers_reads_them(stem: str, template: str, number: int) -> None:
    """`parse_response` with the descriptions that TRL carries; it strips white space that is kept here."""
    from trl import chat_template_utils

    tokenizer, message = foreign(stem), {"role": "assistant", **REPLIES[number]}
    prompt, reply = rendered(tokenizer, message)
    peer = tokenizer.parse_response(reply, getattr(chat_template_utils, template), prefix=prompt, tools=TOOLS)
    said = ours(tokenizer, prompt, reply)
    assert said.text.strip() == message["content"] == (peer.get("content") or "").strip()
    thinking = peer.get("reasoning_content") or peer.get("thinking") or ""
    assert (said.thinking or "").strip() == message.get("reasoning_content", "") == thinking.strip()
    calls = [(each["function"]["name"], each["function"]["arguments"]) for each in message.get("tool_calls", [])]
    assert [(each.name, json.loads(each.arguments)) for each in said.tool_calls] == calls
    assert [(each["function"]["name"], each["function"]["arguments"]) for each in peer.get("tool_calls") or []] == calls


@pytest.mark.parametrize("stem", ["deepseekv3", "lfm2_2_5", "qwen2_5"])
def test_calls_of_other_templates_come_back(stem: str) -> None:
    tokenizer = foreign(stem)
    message = {"role": "assistant", "content": "", "tool_calls": [call("weather", place="Ulm 東京", days=[1, 2])]}
    for each in message["tool_calls"] if stem == "deepseekv3" else []:  # this one wants text
        each["function"]["arguments"] = json.dumps(each["function"]["arguments"])
    said = ours(tokenizer, *rendered(tokenizer, message))
    assert [(each.name, json.loads(each.arguments)) for each in said.tool_calls] == [
        ("weather", {"place": "Ulm 東京", "days": [1, 2]})
    ]
    assert said.text.strip() == "" and not said.faults


def test_smollm3s_python_tools() -> None:
    """A template with `python_tools` takes calls as code, too."""
    tokenizer = bare_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ python_tools or '' }}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fmt = ReplyFormat.of(tokenizer)
    given = {"python_tools": ["def add(a, b): ..."]}
    said = fmt.parse(ids_of(tokenizer, "Sure.\n<code>\nadd(1, b=2)\n</code>"), arguments=given)
    assert [(each.name, json.loads(each.arguments)) for each in said.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert fmt.parse(ids_of(tokenizer, "<code>\nadd(1, 2)\n</code>")).text == "<code>\nadd(1, 2)\n</code>"


@pytest.mark.parametrize(
    "source",
    ["{% for", "{{ 1 / 0 }}", "x", "{{ raise_exception('no') }}", "{{ messages[9].content.x.y }}", "{{ messages }}",
     "{% for m in messages %}{{ m.tool_calls }}{{ m.reasoning_content }}{% endfor %}", START + "<|channel|><|message|>",
     "{% for m in messages %}[{{ m.reasoning_content }}]<{{ m.tool_calls | tojson }}{% endfor %}"],
)  # fmt: skip
def test_a_template_that_cannot_be_tried_is_plain_text(source: str) -> None:
    tokenizer = bare_tokenizer()
    tokenizer.chat_template = source
    fmt = ReplyFormat.of(tokenizer)
    assert (fmt.name, fmt.thinking, fmt.tools) == ("plain", False, False)
    assert fmt.parse(ids_of(tokenizer, "<think>a</think>b {}"), tools=TOOLS) == Said("b {}", "a", thinking_tokens=3)
