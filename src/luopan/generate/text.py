"""Text in, text out: completion, chat, streaming, batches and scoring over the engine.

Prompts are encoded by `tokens.chat`, so a model sees in use what it saw in training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, ModelError, RecipeError
from luopan.generate.beam import beam_search
from luopan.generate.budget import thinking_format
from luopan.generate.config import SamplingParams, sampling_params
from luopan.generate.constraint import Constraint, constraints_for
from luopan.generate.engine import Completion, Engine, FinishReason
from luopan.generate.replies import ReplyFormat
from luopan.generate.replies_parts import Fault, Piece, Said, ToolCall
from luopan.generate.replies_text import ReplyReader, TextReader
from luopan.generate.rows import Likeliest
from luopan.generate.score import Score, continuation_logprobs
from luopan.generate.speculation import Speculation
from luopan.model.decoder import Decoder
from luopan.tokens.chat import encode_prompt, encode_text, stop_ids

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """An answer. `text` without thinking, tool calls, special tokens and stop strings; `thinking` None where there was
    none. faults: what looked like tool calls and is none; it stands in the text. thinking_tokens: how many of `tokens`.

    tokens and their logprobs as in `Completion` (the stop token included); prompt_tokens is how many came before.
    score: by which it was chosen among others, where it was. top_logprobs as in `Completion`.
    """

    text: str
    thinking: str | None
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: list[float]
    prompt_tokens: int
    score: float | None = None
    top_logprobs: Likeliest | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    thinking_tokens: int = 0


class TextGenerator:
    """A model and its tokenizer, ready to speak. Sampling parameters are those of `SamplingParams`, by name.

    device: where to move the model (None: where it is). eos_ids: what ends an answer (None: the tokenizer's ends of
    turn and of document). max_batch, max_cache_bytes, speculation: see `Engine`. ModelError if the tokenizer has more
    tokens than the model. Errors of every method: RecipeError for sampling parameters, DataError for a prompt that is
    empty or longer than the context.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device | str | None = None,
        *,
        eos_ids: Sequence[int] | None = None,
        max_batch: int = 128,
        max_cache_bytes: int | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        if len(tokenizer) > model.config.vocab_size:
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}",
                hint="this is not the tokenizer that the model was trained with",
            )
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.reply_format = ReplyFormat.of(tokenizer)
        ends = stop_ids(tokenizer) if eos_ids is None else list(eos_ids)
        self.engine = Engine(
            self.model, eos_ids=ends, pad_id=tokenizer.pad_token_id or 0, max_batch=max_batch,
            max_cache_bytes=max_cache_bytes, speculation=speculation,
        )  # fmt: skip

    @overload
    def generate(self, prompt: str, params: SamplingParams | None = None, **values: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], params: SamplingParams | None = None, **values: Any) -> list[str]: ...
    def generate(
        self, prompt: str | Sequence[str], params: SamplingParams | None = None, **values: Any
    ) -> str | list[str]:
        """What the model writes after a prompt, or after each of several; the prompt is not repeated."""
        if isinstance(prompt, str):
            return self.batch([prompt], params, **values)[0].text
        return [reply.text for reply in self.batch(prompt, params, **values)]

    def chat(
        self,
        messages: Sequence[Message],
        enable_thinking: bool = False,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Reply:
        """The assistant's answer to a conversation (`[{"role": ..., "content": ...}, ...]`).

        tools: what it may call, as JSON schemas. arguments: further ones of the chat template.
        """
        return self.batch(
            [messages], params, enable_thinking=enable_thinking, tools=tools, arguments=arguments, **values
        )[0]

    def batch(
        self,
        requests: Sequence[str | Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        enable_thinking: bool | Sequence[bool] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        request_ids: Sequence[int] | None = None,
        **values: Any,
    ) -> list[Reply]:
        """Answers to many requests at once, in their order: a string is continued, a list of messages is answered.

        params, enable_thinking: for all, or for each. request_ids as in `Engine.generate`.
        """
        if params is None or isinstance(params, SamplingParams):
            told = [_params(params, values)] * len(requests)
        else:
            told = [_params(one, values) for one in params]
        each = [enable_thinking] * len(requests) if isinstance(enable_thinking, bool) else list(enable_thinking)
        prompts = [
            self.encode(request, thinking, tools, arguments) for request, thinking in zip(requests, each, strict=True)
        ]
        readers = [
            self._reader(request, prompt, one.stop, tools, arguments)
            for request, prompt, one in zip(requests, prompts, told, strict=True)
        ]
        said: list[list[Piece]] = [[] for _ in prompts]
        ends = [self.ends(one) for one in told]

        def listen(index: int, token: int, _logprob: float) -> bool:
            if not told[index].stop or token in ends[index]:
                return False
            said[index] += readers[index].push(token)
            return readers[index].stopped

        # Without stop strings nobody needs the text before the end.
        listener = listen if any(one.stop for one in told) else None
        bare = [self.bare(one) for one in told]
        bound = [
            self.constraint(prompt, one, think=thinking, chat=not isinstance(request, str))
            for request, prompt, one, thinking in zip(requests, prompts, told, each, strict=True)
        ]
        completions = self.engine.generate(prompts, bare, request_ids=request_ids, on_token=listener, constraints=bound)
        for pieces, reader, one, completion, own in zip(said, readers, told, completions, ends, strict=True):
            pieces += [*([] if one.stop else reader.push_all(_body(completion, own))), *reader.finish()]
        return [
            _reply(reader.said(pieces), completion, len(prompt))
            for reader, pieces, completion, prompt in zip(readers, said, completions, prompts)
        ]

    def stream(self, prompt: str, params: SamplingParams | None = None, **values: Any) -> Generator[str, None, Reply]:
        """What the model writes after a prompt, piece by piece; put together it is what `generate` gives.

        Whole characters only. The generator's return value is the whole Reply.
        """
        ids, told = self.encode(prompt), _params(params, values)
        bound = self.constraint(ids, told, chat=False)
        return (yield from self._stream(ids, told, TextReader(self.tokenizer, told.stop), bound))

    def stream_chat(
        self,
        messages: Sequence[Message],
        enable_thinking: bool = False,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Generator[Piece, None, Reply]:
        """The assistant's answer piece by piece. A `Piece` is a string that knows whether it is thinking.

        Marks and tool calls are left out: the pieces put together are `chat`'s thinking and text. The return value is
        the whole Reply.
        """
        ids, told = self.encode(messages, enable_thinking, tools, arguments), _params(params, values)
        reader = self._reader(messages, ids, told.stop, tools, arguments)
        bound = self.constraint(ids, told, think=enable_thinking)
        return (yield from self._stream(ids, told, reader, bound))

    def beam_search(
        self,
        request: str | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        num_beams: int = 4,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        num_return_sequences: int = 1,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> list[Reply]:
        """The likeliest answers that a search of this width finds, best first (`generate.beam`)."""
        ids = self.encode(request, enable_thinking, tools, arguments)
        told = _params(params, values)
        beams = beam_search(
            self.engine, ids, told, num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping,
            num_return_sequences=num_return_sequences,
        )  # fmt: skip
        replies = []
        for beam in beams:
            reader = self._reader(request, ids, (), tools, arguments)
            pieces = [*reader.push_all(_body(beam.completion, self.ends(told))), *reader.finish()]
            replies.append(replace(_reply(reader.said(pieces), beam.completion, len(ids)), score=beam.score))
        return replies

    def best_of(
        self,
        request: str | Sequence[Message],
        n: int,
        params: SamplingParams | None = None,
        *,
        judge: Callable[[Reply], float] | None = None,
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> list[Reply]:
        """`n` answers that are drawn, the best first: by `judge`, or by their mean log-probability."""
        if n < 1:
            raise RecipeError(f"n is {n}, it must be at least 1")
        told = _params(params, values)
        if told.greedy and n > 1:
            raise RecipeError("at temperature 0 all answers are the same: raise it, or use beam_search")
        replies = self.batch([request] * n, told, enable_thinking=enable_thinking, tools=tools, arguments=arguments)
        scored = [replace(reply, score=(judge or mean_logprob)(reply)) for reply in replies]
        return sorted(scored, key=lambda reply: -(reply.score or 0.0))

    def score(self, texts: Sequence[str], prefixes: Sequence[str] | None = None) -> list[Score]:
        """How likely each text is, after its prefix if there are prefixes.

        Text and prefix are encoded together, and scoring starts at the first token that the prefix alone would not
        have. Without anything before it a text's first token cannot be scored, and its bytes are not counted (to the
        byte, unless that border cuts a character).
        """
        before = [""] * len(texts) if prefixes is None else list(prefixes)
        sequences, starts = [], []
        for text, prefix in zip(texts, before, strict=True):
            head, whole = self._encode_text(prefix), self._encode_text(prefix + text)
            same = next((i for i, (a, b) in enumerate(zip(head, whole)) if a != b), min(len(head), len(whole)))
            sequences.append(whole)
            starts.append(max(1, same))
        scored = continuation_logprobs(self.model, sequences, starts)
        known = [ids[:start] for ids, start in zip(sequences, starts)]
        given = self.tokenizer.batch_decode(known, clean_up_tokenization_spaces=False)
        return [
            Score(row, len((prefix + text).encode()) - len(str(part).encode()))
            for row, prefix, text, part in zip(scored, before, texts, given)
        ]

    def encode(
        self,
        request: str | Sequence[Message],
        enable_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens that the model is given: of a text without its end, or of a conversation up to the answer."""
        if not isinstance(request, str):
            return encode_prompt(
                self.tokenizer, request, enable_thinking=enable_thinking, tools=tools, arguments=arguments
            )
        if enable_thinking or tools or arguments:
            raise DataError(
                "thinking, tools and arguments of the template belong to conversations, not to a text to be continued"
            )
        ids = self._encode_text(request)
        if not ids:
            raise DataError("the prompt is empty: there is nothing to go on from")
        return ids

    def constraint(
        self, prompt: Sequence[int], params: SamplingParams, *, think: bool = False, chat: bool = True
    ) -> Constraint | None:
        """What binds one answer to these tokens, where the parameters ask for it (`constraints_for`)."""
        if not params.constrained:
            return None
        opened = thinking_format(self.tokenizer).begun_by(prompt)
        return constraints_for(self.tokenizer, params, opened=opened, think=think, chat=chat)

    def _encode_text(self, text: str) -> list[int]:
        return list(encode_text(self.tokenizer, text).input_ids[:-1])  # without the end of the document

    def ends(self, params: SamplingParams) -> frozenset[int]:
        """The tokens that end an answer with these parameters."""
        return frozenset((*self.engine.eos_ids, *params.stop_token_ids))

    def bare(self, params: SamplingParams) -> SamplingParams:
        """The parameters without texts: bad words as tokens, at the beginning of a text and behind a space."""
        if not params.bad_words:
            return params.model_copy(update={"stop": ()})
        texts = [text for word in params.bad_words for text in (word, f" {word.lstrip()}")]
        found = [tuple(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        barred = tuple(dict.fromkeys((*params.bad_words_ids, *filter(None, found))))
        return params.model_copy(update={"stop": (), "bad_words": (), "bad_words_ids": barred})

    def _reader(
        self,
        request: str | Sequence[Message],
        prompt: Sequence[int],
        stop: Sequence[str],
        tools: Sequence[Mapping[str, Any]] | None,
        arguments: Mapping[str, Any] | None,
    ) -> ReplyReader:
        """What reads the answer to a request."""
        if isinstance(request, str):
            return TextReader(self.tokenizer, stop)
        return self.reply_format.parser(prompt, tools, stop=stop, arguments=arguments)

    def _stream(
        self, ids: list[int], params: SamplingParams, reader: ReplyReader, constraint: Constraint | None
    ) -> Generator[Piece, None, Reply]:
        """Yield pieces as they become certain; returns the whole."""
        ends = self.ends(params)
        said: list[Piece] = []
        tokens: list[int] = []
        logprobs: list[float] = []
        tops: Likeliest | None = [] if params.top_logprobs else None
        reason: FinishReason = "length"
        for item in self.engine.stream([ids], self.bare(params), constraints=[constraint]):
            tokens.append(item.token)
            logprobs.append(item.logprob)
            if tops is not None:
                tops.append(item.top_logprobs or [])
            pieces = [] if item.token in ends else reader.push(item.token)
            said += pieces
            yield from pieces
            if reader.stopped or item.finish_reason is not None:
                reason = "stop" if reader.stopped else item.finish_reason or "length"
                break
        pieces = reader.finish()
        yield from pieces
        return _reply(reader.said([*said, *pieces]), Completion(tokens, logprobs, reason, tops), len(ids))


def mean_logprob(reply: Reply) -> float:
    """The mean log-probability of an answer's tokens."""
    return sum(reply.logprobs) / len(reply.logprobs)


def _params(params: SamplingParams | None, values: Mapping[str, Any]) -> SamplingParams:
    if params is not None and values:
        raise RecipeError(f"sampling parameters are given twice: as an object and as {', '.join(values)}")
    return sampling_params(**values) if params is None else params


def _body(completion: Completion, ends: frozenset[int]) -> list[int]:
    """The tokens without the one that ended them."""
    tokens = completion.tokens
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


def _reply(said: Said, completion: Completion, prompt_tokens: int) -> Reply:
    return Reply(
        said.text, said.thinking, completion.tokens, completion.finish_reason, completion.logprobs, prompt_tokens,
        top_logprobs=completion.top_logprobs, tool_calls=said.tool_calls, faults=said.faults,
        thinking_tokens=said.thinking_tokens,
    )  # fmt: skip
