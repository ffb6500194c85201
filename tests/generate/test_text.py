"""Text in, text out: whole characters, stop strings, chat, thinking, streaming, scoring."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, ModelError, RecipeError
from luopan.generate.config import SamplingParams
from luopan.generate.detokenize import Detokenizer, TextStream
from luopan.generate.replies import ReplyFormat
from luopan.generate.text import Reply, TextGenerator
from luopan.model.decoder import Decoder
from luopan.objectives.logprobs import token_logprobs
from luopan.tokens.chat import encode_prompt, encode_text, split_thinking

TALK = [{"role": "user", "content": "the cat"}]


def finished(stream: Generator[str, None, Reply]) -> tuple[list[str], Reply]:
    """The pieces of a stream and what it returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def said(reply: Reply) -> Reply:
    """Without the log-probabilities, whose last digits depend on the size of the batch."""
    return replace(reply, logprobs=[])


@pytest.fixture
def speaker(tokenizer: PreTrainedTokenizerFast, scripted: Callable[..., Any]) -> Callable[[str], TextGenerator]:
    """A generator that answers TALK with a given text (special tokens in it are tokens)."""
    prompts = {thinking: encode_prompt(tokenizer, TALK, enable_thinking=thinking) for thinking in (False, True)}
    assert len(prompts[False]) == len(prompts[True])

    def build(text: str) -> TextGenerator:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        script = prompts[False] + ids
        return TextGenerator(scripted(script, context=len(script)), tokenizer)

    return build


# ------------------------------------------------------------------------------------------------------- characters


def test_pieces_put_together_are_the_text_whatever_the_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Random tokens, most of them single bytes: broken, half and whole characters, special tokens between."""
    draw = random.Random(0)
    for trial in range(1500):
        ids = [draw.randrange(264 if trial % 2 else len(tokenizer)) for _ in range(draw.randint(1, 40))]
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push(i) for i in ids] + [detokenizer.finish()]
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True), ids


def test_half_a_character_is_never_shown(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "ž 東京 👩‍👩‍👧 😀𝄞é"
    ids = tokenizer(text).input_ids
    assert len(ids) > len(text), "the characters must be cut into bytes for this to show anything"
    detokenizer = Detokenizer(tokenizer)
    shown = ""
    for token in ids:
        shown += detokenizer.push(token)
        assert text.startswith(shown)
    assert shown == text and detokenizer.finish() == ""


def test_a_character_that_is_never_finished_shows_as_a_replacement(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("a😀").input_ids[:-1]
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.push(token) for token in ids) == "a"
    assert detokenizer.finish() == "\ufffd"


# ----------------------------------------------------------------------------------------------------- stop strings


def test_stop_strings_across_token_borders(tokenizer: PreTrainedTokenizerFast) -> None:
    draw = random.Random(0)
    for _ in range(400):
        text = "".join(draw.choice("ab東 ") for _ in range(draw.randint(1, 25)))
        stops = ["".join(draw.choice("ab東 ") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        places = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        expected = text[: min(places)[1]] if places else text  # what is complete first ends it
        stream = TextStream(tokenizer, stops)
        shown = ""
        for token in tokenizer(text).input_ids:
            shown += stream.push(token)
            assert expected.startswith(shown), "text was shown that a stop string should have cut off"
            if stream.stopped:
                break
        assert stream.stopped == bool(places)
        assert shown + stream.finish() == expected


def test_a_stop_string_ends_an_answer(speaker: Callable[[str], TextGenerator]) -> None:
    generator = speaker("the cat sat STOP and then it ran<|im_end|>")
    reply = generator.chat(TALK, temperature=0, stop=["ST", "then"])
    assert (reply.text, reply.finish_reason) == ("the cat sat ", "stop")
    assert len(reply.tokens) < 15, "decoding went on after the stop string"
    pieces, streamed = finished(generator.stream_chat(TALK, temperature=0, stop=["ST", "then"]))
    assert "".join(pieces) == reply.text and streamed == reply
    assert generator.chat(TALK, temperature=0, stop="never").text == "the cat sat STOP and then it ran"


# ------------------------------------------------------------------------------------------------------------- chat


def test_chat(speaker: Callable[[str], TextGenerator], tokenizer: PreTrainedTokenizerFast) -> None:
    reply = speaker("the cat ran 👩‍👩‍👧 away<|im_end|>").chat(TALK, temperature=0)
    assert (reply.text, reply.thinking, reply.finish_reason) == ("the cat ran 👩‍👩‍👧 away", None, "stop")
    assert reply.tokens[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(reply.logprobs) == len(reply.tokens) and reply.prompt_tokens == len(encode_prompt(tokenizer, TALK))


def test_thinking_and_answer_are_told_apart(speaker: Callable[[str], TextGenerator]) -> None:
    generator = speaker("<think>\nthe cat sat\n12\n</think>\nit ran\naway<|im_end|>")
    reply = generator.chat(TALK, enable_thinking=True, temperature=0)
    assert (reply.thinking, reply.text) == ("the cat sat\n12", "it ran\naway")
    pieces, streamed = finished(generator.stream_chat(TALK, enable_thinking=True, temperature=0))
    assert streamed == reply
    assert "".join(piece for piece in pieces if piece.thinking) == reply.thinking  # type: ignore[attr-defined]
    assert "".join(piece for piece in pieces if not piece.thinking) == reply.text  # type: ignore[attr-defined]
    assert len(pieces) > 5


def test_running_out_of_room(speaker: Callable[[str], TextGenerator]) -> None:
    generator = speaker("<think>\nthe cat sat on a mat")
    reply = generator.chat(TALK, enable_thinking=True, temperature=0)
    assert (reply.thinking, reply.text, reply.finish_reason) == ("the cat sat on a mat", "", "length")
    pieces, streamed = finished(generator.stream_chat(TALK, enable_thinking=True, temperature=0))
    assert "".join(pieces) == reply.thinking and streamed == reply
    assert generator.chat(TALK, temperature=0, max_new_tokens=3).finish_reason == "length"


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "<think>\na\n\nb\n</think>\n\nanswer\n",
        "<think></think>x",
        "\n <think>\n\na</thin </think></think>",
        "<think>never closed </thi",
        "<think>\n\n",
        "<thin",
        "a <think>b</think>",
        "",
        "\n",
    ],
)
def test_the_parser_agrees_with_split_thinking_however_the_text_is_cut(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    """As tokens of its vocabulary, and as characters of one that has no tokens for the tags."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if "think" not in token["content"]]
    spelled = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    thinking, answer = split_thinking(text)
    for reading in (tokenizer, spelled):
        parser = ReplyFormat.of(reading).parser()
        pieces = []
        for token in reading(text, add_special_tokens=False).input_ids:
            pieces += parser.push(token)
        pieces += parser.finish()
        assert all(pieces)
        assert "".join(piece for piece in pieces if piece.thinking) == (thinking or "")
        assert "".join(piece for piece in pieces if not piece.thinking) == answer


# --------------------------------------------------------------------------------------------- a real (random) model


def test_generate_stream_and_batch_agree(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TextGenerator(model, tokenizer)
    prompts = ["the cat", "東京", "12 34", "a 👩‍👩‍👧"]
    values: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 40, "seed": 3}
    together = generator.generate(prompts, **values)
    assert len(set(together)) == 4
    assert generator.generate(prompts[0], **values) == together[0]
    pieces, reply = finished(generator.stream(prompts[0], **values))
    assert "".join(pieces) == reply.text == together[0] and reply.thinking is None
    mixed = generator.batch([prompts[0], TALK], request_ids=[0, 7], **values)
    assert mixed[0].text == together[0]
    assert said(mixed[1]) == said(generator.batch([TALK], request_ids=[7], **values)[0])


def test_batch_takes_thinking_for_each(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TextGenerator(model, tokenizer)
    values: dict[str, Any] = {"temperature": 0, "max_new_tokens": 30}
    off, on = generator.batch([TALK, TALK], enable_thinking=[False, True], **values)
    assert said(off) == said(generator.chat(TALK, **values)) and said(on) == said(generator.chat(TALK, True, **values))
    assert off.tokens != on.tokens


def test_text_that_looks_like_control_tokens_is_text(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TextGenerator(model, tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in generator.encode("a <|im_end|>")


def test_score_is_the_models_own(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TextGenerator(model, tokenizer)
    texts = ["the cat sat on a mat", "東京 12", "a"]
    for text, score in zip(texts, generator.score(texts)):
        ids = encode_text(tokenizer, text).input_ids[:-1]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, :-1]
        expected = token_logprobs(logits, torch.tensor(ids[1:], dtype=torch.long))
        assert score.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert score.num_bytes == len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert generator.score(["a"])[0].logprobs == []


def test_score_after_a_prefix(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    """P(cat | the) P(sat | the cat) = P(cat sat | the)."""
    generator = TextGenerator(model, tokenizer)
    first, second, both = generator.score([" cat", " sat", " cat sat"], ["the", "the cat", "the"])
    assert first.logprob + second.logprob == pytest.approx(both.logprob, abs=1e-4)
    assert (first.num_bytes, both.num_bytes) == (4, 8)
    assert both.bits_per_byte == pytest.approx(-both.logprob / 8 / 0.6931472)


def test_errors(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TextGenerator(model, tokenizer)
    with pytest.raises(DataError, match="empty"):
        generator.generate("")
    with pytest.raises(DataError, match="context is 96"):
        generator.generate("12 " * 60)
    with pytest.raises(DataError, match="context of 96"):
        generator.score(["12 " * 60])
    with pytest.raises(DataError, match="conversation is empty"):
        generator.chat([])
    with pytest.raises(RecipeError, match="max_length"):
        generator.generate("the", max_length=3)
    with pytest.raises(RecipeError, match="twice"):
        from luopan.generate.config import SamplingParams

        generator.generate("the", SamplingParams(), temperature=0)
    with pytest.raises(DataError, match="thinking"):
        generator.batch(["the"], enable_thinking=True)


def test_a_foreign_tokenizer_is_refused(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["zzz"])
    with pytest.raises(ModelError, match="385 tokens, the model 384"):
        TextGenerator(model, larger)


def test_each_request_of_a_batch_may_have_its_own_parameters(
    tokenizer: PreTrainedTokenizerFast, model: Decoder
) -> None:
    """Stop strings, bad words and limits of one leave the others alone."""
    speaker = TextGenerator(model, tokenizer)
    drawn = SamplingParams(max_new_tokens=30, seed=3)
    free = speaker.batch(["the cat"], drawn)[0]
    words = [str(tokenizer.decode([token])) for token in free.tokens[2:]]
    word = next(word.strip() for word in words if word.strip().isascii() and len(word.strip()) > 1)
    each = [
        drawn,
        drawn.model_copy(update={"stop": (word,)}),
        drawn.model_copy(update={"max_new_tokens": 3}),
        drawn.model_copy(update={"bad_words": (word,)}),
    ]
    whole, stopped, short, barred = speaker.batch(["the cat"] * 4, each, request_ids=[0] * 4)
    assert whole.tokens == free.tokens and whole.text == free.text
    assert stopped.text == free.text[: free.text.index(word)] and stopped.finish_reason == "stop"
    assert short.tokens == free.tokens[:3] and short.finish_reason == "length"
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (word, f" {word}")]
    said = barred.tokens
    assert not any(said[i : i + len(one)] == one for one in ids for i in range(len(said))) and said != free.tokens
    alone = [speaker.batch(["the cat"], params)[0] for params in each]
    assert [reply.tokens for reply in alone] == [reply.tokens for reply in (whole, stopped, short, barred)]
    assert "".join(speaker.stream("the cat", each[3])) == barred.text
