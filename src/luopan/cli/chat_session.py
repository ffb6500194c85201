"""A conversation at the command line: history, commands, a streamed reply, whatever reads the lines.

`ChatSession` knows no terminal: it gets a line, and talks through `say` (whole lines) and `write` (pieces of a reply,
with their part: thinking or answer). So the same code serves a terminal, a pipe and the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from luopan.errors import LuopanError

Part = Literal["thinking", "answer"]
Message = dict[str, Any]

COMMANDS = {
    "/system": "/system TEXT       who the model should be; /system alone takes it away",
    "/think": "/think on|off      let the model think before it answers",
    "/reset": "/reset             forget the conversation, keep the system prompt",
    "/save": "/save FILE         write the conversation as a line of JSON that can be trained on",
    "/help": "/help              this list",
    "/quit": "/quit              leave (Ctrl-D as well)",
}


class Talker(Protocol):
    """What answers: pieces of the reply as they come, and whether messages still fit into the model's context."""

    def reply(self, messages: Sequence[Message], thinking: bool) -> Iterator[tuple[str, Part]]: ...

    def fits(self, messages: Sequence[Message], thinking: bool) -> bool: ...


@dataclass
class ChatSession:
    """One conversation; `messages` is the history without the system prompt."""

    talker: Talker
    say: Callable[[str], None]
    write: Callable[[str, Part], None]
    system: str = ""
    thinking: bool = False
    messages: list[Message] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)

    def take(self, line: str) -> bool:
        """Deals with one line of the user's; False when it was /quit. Ctrl-C during a reply stops that reply only."""
        line = line.strip()
        if not line:
            return True
        if line.startswith("/"):
            return self._command(line)
        self._answer(line)
        return True

    def history(self) -> list[Message]:
        """All messages, the system prompt first where there is one."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    def _answer(self, line: str) -> None:
        self.messages.append({"role": "user", "content": line})
        said: dict[Part, str] = {"thinking": "", "answer": ""}
        try:
            self._make_room()
            for text, part in self.talker.reply(self.history(), self.thinking):
                said[part] += text
                self.write(text, part)
        except KeyboardInterrupt:
            self.say("(stopped)")
        except LuopanError as error:
            self.messages.pop()
            self.say(f"error: {error}")
            return
        if not said["answer"].strip():
            self.messages.pop()  # nothing was answered: for what follows, the turn did not happen
            self.say("(no answer)")
            return
        reply: Message = {"role": "assistant", "content": said["answer"].strip()}
        if said["thinking"].strip():
            reply["reasoning_content"] = said["thinking"].strip()
        self.messages.append(reply)

    def _make_room(self) -> None:
        """Forgets the oldest exchanges when the conversation outgrows the model's context, and says so."""
        forgotten = 0
        while len(self.messages) > 1 and not self.talker.fits(self.history(), self.thinking):
            del self.messages[:2]
            forgotten += 1
        if forgotten:
            turns = "exchange" if forgotten == 1 else f"{forgotten} exchanges"
            self.say(f"(the model's context is full: the oldest {turns} forgotten)")

    def _command(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/system":
            self.system = rest
            self.say(f"system prompt: {rest}" if rest else "no system prompt")
        elif name == "/think":
            if rest not in ("on", "off"):
                self.say(f"thinking is {'on' if self.thinking else 'off'}; /think on or /think off changes it")
            else:
                self.thinking = rest == "on"
                self.say(f"thinking {rest}")
        elif name == "/reset":
            self.messages.clear()
            self.say("conversation forgotten")
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            self.say("\n".join(COMMANDS.values()))
        else:
            from luopan.recipe.introspect import suggestion

            self.say(f'no such command "{name}"{suggestion(name, COMMANDS)}')
        return True

    def _save(self, name: str) -> None:
        from luopan.artifacts import atomic_write_text

        path = Path(name).expanduser()
        if not name:
            self.say("give a file: /save talk.jsonl")
        elif not self.messages:
            self.say("nothing was said yet")
        elif path.exists() and path.resolve() not in self.saved:
            self.say(f"{path} exists already; not overwritten")
        else:
            row = {"messages": self.history(), "chat_template_kwargs": {"enable_thinking": self.thinking}}
            try:
                atomic_write_text(path, json.dumps(row, ensure_ascii=False) + "\n")
            except (LuopanError, OSError) as error:
                self.say(f"error: {error}")
                return
            self.saved.add(path.resolve())
            self.say(f"saved {len(self.messages)} messages to {path}")
