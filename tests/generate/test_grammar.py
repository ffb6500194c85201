"""Whatever a random model says under a grammar keeps to it: read back with `json`, `jsonschema` and `re`."""

from __future__ import annotations

import builtins
import gc
import json
import re
import weakref
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError, RecipeError
from luopan.generate import grammar as grammar_module
from luopan.generate.config import SamplingParams
from luopan.generate.constraint import constraints_for
from luopan.generate.grammar import grammars_of
from luopan.generate.text import TextGenerator
from luopan.model.decoder import Decoder

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

SCHEMAS: dict[str, dict[str, Any]] = {
    "any": {},
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "where": {
                "type": "object",
                "properties": {"x": {"type": "integer", "minimum": -5, "maximum": 40}, "on": {"type": "boolean"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "where"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 3, None, {"deep": [1, 2]}]},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "number": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 12},
    "pattern": {"type": "string", "pattern": "^[A-C]{2}-[0-9]{1,3}$"},
    "ref": {
        "$defs": {"tree": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["v", "kids"],
            "additionalProperties": False,
        }},
        "$ref": "#/$defs/tree",
    },
    "unicode": {
        "type": "object",
        "properties": {"城市": {"enum": ["東京", "zażółć", "🙂"]}, "naïve": {"type": "string", "maxLength": 5}},
        "required": ["城市", "naïve"],
        "additionalProperties": False,
    },
    "any_of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string", "maxLength": 2}}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def speaker(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> TextGenerator:
    """The tiny model has 96 tokens of context; its rotary tables know no more, but any number would do here."""
    longer = model.config.model_copy(update={"max_position_embeddings": 400})
    other = Decoder(longer).eval()
    other.load_state_dict(model.state_dict())
    return TextGenerator(other, tokenizer)


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_of_a_random_model_is_valid(speaker: TextGenerator, name: str) -> None:
    schema = SCHEMAS[name]
    params = SamplingParams(json_schema=json.dumps(schema), max_new_tokens=220)
    replies = speaker.batch(["the cat"] * 24, params.model_copy(update={"seed": 3}))
    whole = [reply for reply in replies if reply.finish_reason == "stop"]
    assert len(whole) >= 3, [reply.text for reply in replies]
    for reply in whole:
        jsonschema.validate(json.loads(reply.text), schema)
    for reply in replies:
        assert reply.finish_reason == "stop" or len(reply.tokens) == 220
    if name != "enum":
        assert len({reply.text for reply in whole}) > 2
    greedy = speaker.batch(["the cat"], params.model_copy(update={"temperature": 0.0}))[0]
    if greedy.finish_reason == "stop":
        jsonschema.validate(json.loads(greedy.text), schema)


def test_without_a_grammar_a_random_model_writes_no_json(speaker: TextGenerator) -> None:
    """What the tests above would show if nothing were masked."""
    for reply in speaker.batch(["the cat"] * 24, max_new_tokens=60, seed=3):
        with pytest.raises(ValueError):
            json.loads(reply.text)


def test_tokens_that_ran_out_leave_half_a_text(speaker: TextGenerator) -> None:
    (reply,) = speaker.batch(["the cat"], json_schema=SCHEMAS["nested"], max_new_tokens=6, seed=0)
    assert reply.finish_reason == "length" and len(reply.tokens) == 6
    with pytest.raises(ValueError):
        json.loads(reply.text)


@pytest.mark.parametrize("pattern", [r"[a-f]{3,6}( [0-9]+)?", r"(ja|nein|ни да)!", r"[0-9]{4}-[0-9]{2}", "東(京|都)+x"])
def test_text_matches_a_regular_expression(speaker: TextGenerator, pattern: str) -> None:
    replies = speaker.batch(["the cat"] * 16, regex=pattern, max_new_tokens=60, seed=1)
    whole = [reply for reply in replies if reply.finish_reason == "stop"]
    assert len(whole) >= 8 and len({reply.text for reply in whole}) > 1
    for reply in whole:
        assert re.fullmatch(pattern, reply.text), reply.text


def test_text_is_of_a_lark_grammar(speaker: TextGenerator) -> None:
    """Balanced brackets, which no regular expression can say."""
    text = 'start: "(" start ")" | "[" start "]" | "x"'
    replies = speaker.batch(["the cat"] * 16, grammar=text, max_new_tokens=60, seed=1, logit_bias={})
    whole = {reply.text for reply in replies if reply.finish_reason == "stop"}
    assert len(whole) > 3
    for said in whole:
        left = said[: said.index("x")]
        assert said == left + "x" + "".join({"(": ")", "[": "]"}[one] for one in reversed(left))


def test_bound_and_free_requests_share_a_batch(speaker: TextGenerator) -> None:
    params = [
        SamplingParams(max_new_tokens=30, seed=2, **values)
        for values in ({}, {"regex": "[a-z]{9}"}, {"temperature": 0}, {"json_schema": "{}"}, {"stop": ("a",)})
    ]
    prompts = ["the cat", "a mat", "brown fox", "jumps", "over"]
    together = speaker.batch(prompts, params, request_ids=[0] * 5)
    for prompt, one, reply in zip(prompts, params, together):
        (alone,) = speaker.batch([prompt], one)
        assert alone.tokens == reply.tokens and alone.text == reply.text
    stream = speaker.stream("a mat", params[1])
    assert "".join(stream) == together[1].text and len(together[1].text) == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"json_schema": '{"type": "strung"}'}, "json_schema: Invalid type: strung"),
        ({"json_schema": '{"type": '}, "json_schema is not JSON"),
        ({"json_schema": "[1]"}, "not an object"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}'}, "uniqueItems"),
        ({"json_schema": "false"}, "json_schema is false, not an object"),
        ({"regex": "[a-z"}, "unclosed character class"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"grammar": 'start: "a" b'}, 'unknown name: "b"'),
        ({"grammar": "nothing"}, "grammar: "),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_the_librarys_words(speaker: TextGenerator, values: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        speaker.generate("the cat", **values)
    assert caught.value.hint


def test_without_the_library_it_is_said_what_to_install(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("llguidance"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match="llguidance") as caught:
        grammar_module.Grammars(tokenizer)
    assert "luopan[serve]" in str(caught.value.hint)


def test_the_view_of_a_tokenizer_is_made_once_and_goes_with_it(tokenizer: PreTrainedTokenizerFast) -> None:
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), eos_token=tokenizer.eos_token
    )
    made = grammars_of(other)
    assert grammars_of(other) is made and grammars_of(tokenizer) is not made
    before = len(grammar_module._GRAMMARS)
    other.add_tokens(["qqqq"])
    fresh = grammars_of(other)
    assert fresh is not made, "a token that was added since is one that may come"
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None and len(grammar_module._GRAMMARS) == before - 1


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Words with a mark for the space before them, bytes where a character has no token, as Llama 2 and Gemma have."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [
        "▁the",
        "the",
        "▁a",
        "{",
        "}",
        '"',
        ":",
        ",",
        "a",
        "b",
        "c",
        "n",
        "ame",
        "1",
        "2",
        '{"',
        '":',
        '":▁"',
        "▁{",
    ]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, [("▁", "the"), ("▁", "a"), ("{", '"'), ('"', ":"), ("▁", "{")],
                                   unk_token="<unk>", byte_fallback=True))  # fmt: skip
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def test_a_tokenizer_with_marks_for_spaces(speaker: TextGenerator) -> None:
    marks = sentencepiece_like()
    schema = {
        "type": "object", "properties": {"name": {"enum": ["the a", "é"]}}, "required": ["name"],
        "additionalProperties": False,
    }  # fmt: skip
    replies = TextGenerator(speaker.model, marks).batch(["the a"] * 16, json_schema=schema, max_new_tokens=150, seed=0)
    whole = [reply for reply in replies if reply.finish_reason == "stop"]
    assert len(whole) > 8
    for reply in whole:
        jsonschema.validate(json.loads(reply.text), schema)
    assert len({json.loads(reply.text)["name"] for reply in whole}) == 2


def beginnings(tokenizer: PreTrainedTokenizerFast, *texts: str) -> set[int]:
    """The tokens with which one of the texts can begin."""
    said = {i: tokenizer.decode([i]) for i in range(len(tokenizer))}
    return {i for i, one in said.items() if one and any(text.startswith(one) for text in texts)}


def test_a_mask_is_what_the_grammar_can_go_on_with(tokenizer: PreTrainedTokenizerFast) -> None:
    """By hand: the tokens whose text is a beginning of what is left; the model's vocabulary is larger."""
    constraint = constraints_for(tokenizer, SamplingParams(regex="the cat|a mat|away"), opened=False, chat=False)
    assert constraint is not None and not constraint.accepting

    def allowed() -> set[int]:
        row = torch.ones(500, dtype=torch.bool)
        constraint.allow(row)
        return set(row.nonzero()[:, 0].tolist())

    expected = beginnings(tokenizer, "the cat", "a mat", "away")
    assert allowed() == expected and len(expected) == 3
    for token in (ids := tokenizer.encode("the mat", add_special_tokens=False)[:1]):
        constraint.take(token)
    # " cat" is the only way on: in the tokens that the tokenizer has for it, not in the letters it could also be.
    assert len(beginnings(tokenizer, " cat")) > 1 and len(allowed()) == 1
    for token in tokenizer.encode("the cat", add_special_tokens=False)[len(ids) :]:
        assert not constraint.done and allowed() == {token}
        constraint.take(token)
    assert constraint.done and constraint.accepting


def test_what_may_be_empty_ends_at_once(speaker: TextGenerator) -> None:
    (reply,) = speaker.batch(["the cat"], regex="", seed=0)
    assert reply.text == "" and reply.finish_reason == "stop" and len(reply.tokens) == 1
