"""Who is asked: a server that speaks the OpenAI API, or a model of this process.

A speaker turns an `Ask` into a *request*, plain data that says all a reply depends on (it is what replies are
remembered by), and answers many requests side by side. Thinking is taken from `reasoning_content` (or `reasoning`), or
from a `<think>` block in front of the answer.

Limits: a server's reply is as repeatable as the server; the local model's is a function of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from luopan.errors import LuopanError
from luopan.rl.line import Line, Refused
from luopan.synth.config import Sampling
from luopan.tokens.chat import split_thinking

if TYPE_CHECKING:
    from luopan.generate.text import TextGenerator

Message = Mapping[str, Any]
Request = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """What is asked. `thinking` None: the speaker is not told whether to think. `purpose`: for the bill."""

    messages: tuple[Message, ...]
    seed: int
    sampling: Sampling
    purpose: str
    thinking: bool | None = None


@dataclass(frozen=True)
class Reply:
    """What was said, or why nothing was (`fault`). `ended`: by itself, and not by the limit."""

    text: str = ""
    thinking: str | None = None
    ended: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str = ""
    lasting: bool = True  # a fault that would come again


Heard = Callable[[int, Reply], None]


class Speaker(Protocol):
    """`together`: how many requests are worth handing over at once."""

    @property
    def name(self) -> str: ...

    @property
    def together(self) -> int: ...

    def request(self, ask: Ask) -> Request: ...

    def answer(self, requests: Sequence[Request], heard: Heard) -> None: ...


@dataclass(frozen=True)
class EndpointSpeaker:
    """A model behind a server. `extra` goes into every request; None takes out a field that it does not know."""

    line: Line
    name: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def together(self) -> int:
        return 4 * self.line.concurrency

    def request(self, ask: Ask) -> Request:
        body = {
            "model": self.name,
            "messages": [dict(message) for message in ask.messages],
            "temperature": ask.sampling.temperature,
            "top_p": ask.sampling.top_p,
            "max_tokens": ask.sampling.max_tokens,
            "seed": ask.seed,
            "chat_template_kwargs": None if ask.thinking is None else {"enable_thinking": ask.thinking},
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def answer(self, requests: Sequence[Request], heard: Heard) -> None:
        """FeedUnavailable where the server is away for too long; what was heard before is not lost."""
        self.line.try_all("chat/completions", requests, heard=lambda place, said: heard(place, read_reply(said)))


def read_reply(said: Mapping[str, Any] | Refused) -> Reply:
    """A server's answer, or its refusal."""
    if isinstance(said, Refused):
        return Reply(fault=said.message, lasting=said.status is not None)
    usage = said.get("usage") or {}
    read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    try:
        choice = said["choices"][0]
        message = choice["message"]
        text = str(message.get("content") or "")
        thinking = message.get("reasoning_content") or message.get("reasoning")
        ended = choice.get("finish_reason") == "stop"
    except (KeyError, IndexError, TypeError, AttributeError):
        return Reply(fault="the server's answer has no message", prompt_tokens=read, completion_tokens=written)
    if not thinking:
        thinking, text = split_thinking(text)
    return Reply(text.strip(), str(thinking).strip() if thinking else None, ended, read, written)


@dataclass(frozen=True)
class LocalSpeaker:
    """A model in this process, answered by our engine, a batch at a time."""

    generator: TextGenerator
    name: str
    together: int = 32

    def request(self, ask: Ask) -> Request:
        return {
            "model": self.name,
            "messages": [dict(message) for message in ask.messages],
            **ask.sampling.model_dump(),
            "seed": ask.seed,
            "thinking": bool(ask.thinking),
        }

    def answer(self, requests: Sequence[Request], heard: Heard) -> None:
        """A request that the model cannot read (too long for its context) is a lasting fault of its own."""
        fitting: list[int] = []
        for place, request in enumerate(requests):
            try:
                prompt = self.generator.encode(request["messages"], request["thinking"])
                self.generator.engine.check_prompt(prompt)
                fitting.append(place)
            except LuopanError as error:
                heard(place, Reply(fault=error.message))
        replies = self.generator.batch(
            [requests[place]["messages"] for place in fitting],
            [self._params(requests[place]) for place in fitting],
            enable_thinking=[requests[place]["thinking"] for place in fitting],
            request_ids=[0] * len(fitting),  # the seed alone decides, whoever else is in the batch
        )
        for place, reply in zip(fitting, replies, strict=True):
            heard(
                place,
                Reply(
                    reply.text.strip(), reply.thinking, reply.finish_reason == "stop", reply.prompt_tokens,
                    len(reply.tokens),
                ),
            )  # fmt: skip

    def _params(self, request: Request) -> Any:
        from luopan.generate.config import SamplingParams

        drawn = {"top_p": request["top_p"]} if request["temperature"] > 0 else {}
        return SamplingParams(
            max_new_tokens=request["max_tokens"], temperature=request["temperature"], seed=request["seed"], **drawn
        )
