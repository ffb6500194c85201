"""`luopan chat MODEL`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer

from luopan.cli.app import examples, verb_app
from luopan.cli.chat_session import COMMANDS, ChatSession, Message, Part
from luopan.cli.grouped import GroupedCommand, with_options
from luopan.cli.sampling import SAMPLING, WEIGHTS, sampling_from

app = verb_app()

ReadLine = Callable[[], str | None]


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "luopan chat runs/quickstart/grpo",
        'luopan chat runs/quickstart/sft --system "You are a pirate." --think',
        "echo 'Who are you?' | luopan chat runs/quickstart/grpo",
    ),
)
@with_options({**SAMPLING, **WEIGHTS}, into="options")
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    system: Annotated[str, typer.Option(metavar="TEXT", help="Who the model should be.")] = "",
    think: Annotated[bool, typer.Option("--think", help="Let the model think before it answers.")] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Talks to a model, with history; /help lists the commands. Ctrl-C stops a reply, Ctrl-D leaves.

    Without a terminal, every line of standard input is a turn.
    """
    held = {name: options.pop(name) for name in WEIGHTS if name in options}
    params = sampling_from(model, **{"max_new_tokens": 256, **options})
    from luopan.pipeline.models import text_generator

    talker = _ModelTalker(text_generator(model, **held), params)
    talker.fits([{"role": "user", "content": "?"}], think)  # a tokenizer without a chat template says so now
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    screen = _Screen(colour=sys.stdout.isatty())
    session = ChatSession(talker, screen.say, screen.write, system=system, thinking=think)
    if terminal:
        screen.say(f"{model}: /help lists the commands, Ctrl-D leaves")
    converse(session, screen, _prompt_lines() if terminal else _plain_lines)


def converse(session: ChatSession, screen: _Screen, read_line: ReadLine) -> None:
    """Takes lines until there are no more, or until /quit."""
    while True:
        try:
            line = read_line()
        except KeyboardInterrupt:  # at the prompt it only clears the line
            screen.say("(Ctrl-D or /quit leaves)")
            continue
        if line is None:
            return
        go_on = session.take(line)
        screen.end_reply()
        if not go_on:
            return


class _ModelTalker:
    """A model as the session wants it."""

    def __init__(self, generator: Any, params: Any) -> None:
        self.generator = generator
        self.params = params

    def reply(self, messages: Sequence[Message], thinking: bool) -> Iterator[tuple[str, Part]]:
        for piece in self.generator.stream_chat(messages, thinking, self.params):
            yield str(piece), "thinking" if piece.thinking else "answer"

    def fits(self, messages: Sequence[Message], thinking: bool) -> bool:
        context = self.generator.engine.context
        room = min(self.params.max_new_tokens, context // 2)  # for the answer
        return len(self.generator.encode(messages, thinking)) + room <= context


class _Screen:
    """Writes replies as they come, thinking dimmed (in tags where there is no colour)."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour
        self.part: Part | None = None

    def say(self, text: str) -> None:
        """A line of the program's own."""
        self.end_reply()
        print(f"\x1b[33m{text}\x1b[0m" if self.colour else text, flush=True)

    def write(self, text: str, part: Part) -> None:
        """A piece of the model's reply."""
        if part != self.part:
            opening = "\x1b[2m" if self.colour else "<think>\n"
            closing = "\x1b[0m\n" if self.colour else "\n</think>\n"
            print(opening if part == "thinking" else closing if self.part == "thinking" else "", end="")
            self.part = part
        print(text, end="", flush=True)

    def end_reply(self) -> None:
        """Ends the line of a reply, if one is open."""
        if self.part is not None:
            unclosed = self.part == "thinking"
            print(("\x1b[0m" if self.colour else "\n</think>") if unclosed else "", flush=True)
            self.part = None


def _plain_lines() -> str | None:
    line = sys.stdin.readline()
    return line if line else None


def _prompt_lines() -> ReadLine:
    """Lines from a terminal, with editing, history of this conversation and completed commands."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.shortcuts import CompleteStyle

    prompt: PromptSession[str] = PromptSession(
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_style=CompleteStyle.READLINE_LIKE,  # completes at Tab; a menu would keep eight lines free
        complete_while_typing=False,
    )

    def read() -> str | None:
        try:
            return prompt.prompt("> ")
        except EOFError:
            return None

    return read
