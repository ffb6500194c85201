"""`luopan chat` in a real (pseudo) terminal: prompt, colour, and Ctrl-C that stops a reply but not the program."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


class Terminal:
    """A program on a pseudo terminal: type, and wait for what it says."""

    def __init__(self, *command: str) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True, close_fds=True
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while text not in self.shown() and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        assert text in self.shown(), f"never said {text!r}, but: {self.seen!r}"
        return self.seen

    def shown(self) -> str:
        """What was said, without control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen)


@pytest.fixture
def terminal(run_folder: Path) -> Iterator[Terminal]:
    code = (
        "import os, sys, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from luopan.cli.main import main; "
        f"main(['chat', {str(run_folder / 'sft')!r}, '--max-new-tokens', '60', '--temperature', '1', '--seed', '1'])"
    )
    made = Terminal(sys.executable, "-c", code)
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.master)


def test_a_conversation_in_a_terminal(terminal: Terminal) -> None:
    terminal.wait_for(">")
    terminal.type("\x03")  # Ctrl-C at the prompt
    terminal.wait_for("Ctrl-D or /quit leaves")
    assert terminal.process.poll() is None
    terminal.type("/think on\r")
    assert "\x1b[33mthinking on" in terminal.wait_for("thinking on")
    terminal.type("Who are you?\r/quit\r")  # the second line waits for the reply
    terminal.wait_for("/quit")
    assert terminal.process.wait(timeout=60) == 0
