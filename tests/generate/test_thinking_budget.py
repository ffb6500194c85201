"""Thinking is cut off at its budget and closed as the template closes it; a grammar binds only what comes behind."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.errors import RecipeError
from luopan.generate.budget import thinking_format
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import ReplyConstraint, constraints_for
from luopan.generate.text import TextGenerator
from luopan.model.decoder import Decoder
from luopan.tokens.chat import encode_prompt
from luopan.tokens.templates import TEMPLATES, template_source

USER = [{"role": "user", "content": "the cat"}]
# template: what it puts before, around and behind thinking, told by hand from its published format
FORMATS = {
    "luopan": ("<think>\n", "\n", "</think>", "\n", ""),
    "chatml": ("<think>\n", "\n", "</think>", "\n\n", ""),
    "qwen3": ("<think>\n", "\n", "</think>", "\n\n", ""),
    "deepseek-r1": ("", "\n", "</think>", "\n\n", ""),
    "gpt-oss": (
        "<|channel|>analysis<|message|>", "", "<|end|>", "<|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
    "command-a": ("<|START_THINKING|>", "", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|START_RESPONSE|>"),
}  # fmt: skip


def with_template(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a shipped template and its control tokens (384 tokens and up to 14 more)."""
    info = TEMPLATES[name]
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
                                   eos_token=info.stop[0], pad_token=tokenizer.pad_token)  # fmt: skip
    made.add_tokens(list(info.tokens), special_tokens=True)
    if "bos" in "".join(info.tokens).lower() or "begin" in info.tokens[0]:
        made.bos_token = info.tokens[0]
    made.chat_template = template_source(name)
    return made


@pytest.fixture(scope="module", params=FORMATS)
def named(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> tuple[str, PreTrainedTokenizerFast]:
    return request.param, with_template(tokenizer, request.param)


@pytest.fixture(scope="module")
def wide() -> Decoder:
    """Room for the templates' control tokens."""
    from luopan.model.config import ModelConfig

    return Decoder(ModelConfig(
        vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=400, initializer_range=0.25,
    )).eval()  # fmt: skip


def text_of(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def test_formats_are_read_off_the_templates(named: tuple[str, PreTrainedTokenizerFast]) -> None:
    name, tokenizer = named
    form = thinking_format(tokenizer)
    assert (form.opening, form.before, form.end, form.margin, form.answer_opening) == FORMATS[name]
    assert form.thinks and thinking_format(tokenizer) is form
    for think in (False, True):
        opened = form.begun_by(encode_prompt(tokenizer, USER, enable_thinking=think))
        assert opened is (name == "deepseek-r1" and think)


def test_at_its_budget_thinking_is_closed(named: tuple[str, PreTrainedTokenizerFast], wide: Decoder) -> None:
    """A random model: whether thinking is opened by the prompt or, with a grammar, for the model."""
    _, tokenizer = named
    form = thinking_format(tokenizer)
    speaker = TextGenerator(wide, tokenizer)
    for budget in (0, 1, 7):
        params = SamplingParams(thinking_budget=budget, regex="[0-9]{3}", max_new_tokens=100, seed=budget)
        (reply,) = speaker.batch([USER], params, enable_thinking=True)
        said = text_of(tokenizer, reply.tokens)
        assert reply.finish_reason == "stop" and said.startswith(form.opening)
        thought, closed, answer = said[len(form.opening) :].partition(form.end)
        assert closed and answer.startswith(form.margin) and answer[len(form.margin) :].isdigit() and len(answer) == (
            len(form.margin) + 3
        ), said  # fmt: skip
        # In tokens: the opening, at most the budget, the closing, each of whose tokens had no alternative.
        encode = form.tokens.encode
        head, margin = encode(form.opening), encode(form.margin)
        start = len(reply.tokens) - len(tokenizer.encode(answer[len(form.margin) :], add_special_tokens=False))
        assert reply.logprobs[: len(head)] == [0.0] * len(head)
        assert reply.logprobs[start - len(margin) : start] == [0.0] * len(margin)
        thinking = start - len(margin) - len(encode(form.end)) - len(head)
        assert thinking <= budget + len(encode(form.before))
        if budget == 0:
            assert thought == form.before and reply.logprobs[:start] == [0.0] * start
    assert thinking > 1, "the last budget lets it think"


class Scripted:
    """Feeds tokens to a constraint as the engine would; what is forced wins over the script."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, constraint: ReplyConstraint) -> None:
        self.tokenizer, self.constraint, self.said = tokenizer, constraint, list[int]()
        self.forced = list[bool]()

    def feed(self, script: list[int], more: int = 40) -> str:
        script = list(script)
        for _ in range(len(script) + more):
            row = torch.ones(448, dtype=torch.bool)
            self.constraint.allow(row)
            allowed = row.nonzero()[:, 0].tolist()
            if len(allowed) > 1 and not script:
                break
            token = allowed[0] if len(allowed) == 1 else script.pop(0)
            assert token in allowed, self.tokenizer.decode([token])
            self.constraint.take(token)
            self.said.append(token)
            self.forced.append(len(allowed) == 1)
        return text_of(self.tokenizer, self.said)


def budgeted(tokenizer: PreTrainedTokenizerFast, opened: bool = False, **values: object) -> Scripted:
    params = SamplingParams.model_validate(values)
    constraint = constraints_for(tokenizer, params, opened=opened, think=True)
    assert isinstance(constraint, ReplyConstraint)
    return Scripted(tokenizer, constraint)


@pytest.fixture
def encode(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def qwen(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_template(tokenizer, "qwen3")


@pytest.fixture(scope="module")
def pieces(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As SmolLM2's: tags are no tokens of their own but spelt in ordinary ones, some with what stands behind."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if "think" not in one["content"]]
    for tag in ("<think>", "</think>", "/think", "/no_think"):
        number = state["model"]["vocab"].pop(tag, None)
        if number is not None:
            state["model"]["vocab"][f"unused{number}"] = number
    used = set(state["model"]["vocab"].values()) | {one["id"] for one in state["added_tokens"]}
    free = iter(sorted(set(range(384)) - used))
    for text in ("<think", "</", "think", ">Ċ", ">ĊĊ", ">a", "</think>a"):
        state["model"]["vocab"].setdefault(text, next(free, None) or max(state["model"]["vocab"].values()) + 1)
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token=tokenizer.eos_token
    )
    made.chat_template = template_source("qwen3")
    return made


def ids(tokenizer: PreTrainedTokenizerFast, *texts: str) -> list[int]:
    found = tokenizer.convert_tokens_to_ids(list(texts))
    assert None not in found and tokenizer.unk_token_id not in found
    return list(found)


def test_a_budget_alone_lets_the_model_decide_to_think(qwen: PreTrainedTokenizerFast, encode: Callable) -> None:
    thinks = budgeted(qwen, thinking_budget=4)
    said = thinks.feed(encode("<think>\n the cat sat on a mat and then it ran away"))
    thought = said.removeprefix("<think>").partition("\n</think>\n\n")[0]
    assert len(encode(thought)) == 4 and thinks.constraint.thinking_tokens == 4
    assert sum(thinks.forced) == len(encode("\n</think>\n\n"))
    plain = budgeted(qwen, thinking_budget=0)
    script = encode("the cat <think> sat")
    assert plain.feed(script) == qwen.decode(script) and not any(plain.forced), "an answer may speak of tags"
    early = budgeted(qwen, thinking_budget=9)
    script = encode("<think>\nthe cat\n</think>\nsat on a mat and then it ran 12 34 away the cat sat")
    assert early.feed(script) == qwen.decode(script) and not any(early.forced), "it closed by itself"


def test_what_is_there_of_the_closing_is_not_said_twice(
    qwen: PreTrainedTokenizerFast, pieces: PreTrainedTokenizerFast, encode: Callable
) -> None:
    after_break = budgeted(qwen, opened=True, thinking_budget=len(encode("the cat\n")))
    assert after_break.feed(encode("the cat\nsat on a mat")).startswith("the cat\n</think>\n\n")
    half = budgeted(pieces, opened=True, thinking_budget=3)
    assert half.feed(ids(pieces, "a", "</", "think", ">a", "a", "a")).startswith("a</think>\n\n")
    exactly = budgeted(pieces, opened=True, thinking_budget=4)
    assert exactly.feed(ids(pieces, "a", "</", "think", ">Ċ", "b")) == "a</think>\nb"


def test_behind_a_tag_that_is_spelt_out_the_answer_is_whole(pieces: PreTrainedTokenizerFast) -> None:
    """A token such as `>a` would say something of the answer that the grammar has not seen."""
    bound = budgeted(pieces, opened=True, regex="ab*")
    bound.feed(ids(pieces, "b", "</", "think"), more=0)
    row = torch.ones(448, dtype=torch.bool)
    bound.constraint.allow(row)
    barred = {text for text, i in pieces.get_vocab().items() if not row[i]}
    assert barred == {">a", "</think>a"} and not bound.constraint.accepting
    assert bound.feed(ids(pieces, ">Ċ"), more=5).endswith("</think>\n\na"), "the rest of the margin is put in"
    assert bound.constraint.accepting


def test_json_behind_thinking(qwen: PreTrainedTokenizerFast, wide: Decoder) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    speaker = TextGenerator(wide, qwen)
    params = SamplingParams(json_schema=json.dumps(schema), thinking_budget=12, max_new_tokens=120)
    replies = speaker.batch([USER] * 12, params.model_copy(update={"seed": 1}), enable_thinking=True)
    whole = [reply for reply in replies if reply.finish_reason == "stop"]
    assert len(whole) == 12 and all(isinstance(json.loads(reply.text)["a"], bool) for reply in whole)
    assert len({reply.thinking for reply in whole}) > 3
    (plain,) = speaker.batch([USER], params.model_copy(update={"seed": 1}))  # thinking is off: none is opened
    assert plain.thinking is None and isinstance(json.loads(plain.text)["a"], bool)
    streamed = list(speaker.stream_chat(USER, True, params.model_copy(update={"seed": 1})))
    assert "".join(piece for piece in streamed if not piece.thinking) == replies[0].text


def test_without_a_format_for_thinking_a_budget_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("llama3", "gemma3"):
        other = with_template(tokenizer, name)
        with pytest.raises(RecipeError, match="knows no thinking"):
            constraints_for(other, SamplingParams(thinking_budget=3), opened=False)
        assert constraints_for(other, SamplingParams(regex="a"), opened=False) is not None
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    with pytest.raises(RecipeError, match="knows no thinking"):
        constraints_for(bare, SamplingParams(thinking_budget=3), opened=False)
    assert constraints_for(bare, SamplingParams(thinking_budget=3), opened=True) is not None
    assert constraints_for(bare, SamplingParams(), opened=True) is None


def test_a_template_of_others_that_has_thinking_in_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """It knows no `reasoning_content`: what it shows is a switch, and that it takes tags out of earlier answers."""
    other = with_template(tokenizer, "chatml")
    other.chat_template = (
        "{% if enable_thinking %}{{ '<|im_start|>system\n/think<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    form = thinking_format(other)
    assert form.thinks and (form.opening, form.end) == ("<think>\n", "</think>")
    assert not form.begun_by(encode_prompt(other, USER, enable_thinking=True))
    other.chat_template = other.chat_template.replace("</think>", "nothing")
    assert not thinking_format(other).thinks
