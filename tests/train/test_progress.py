"""What the person sees: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from luopan.train.progress import PlainProgress, RichProgress, duration_text, make_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_every_ten_seconds_with_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock=clock)
    progress.start("pretrain", 100)
    progress.update(40)  # resumed: the pace counts from here
    for step in range(41, 71):
        clock.now += 1.0
        progress.update(step, loss=2.5, learning_rate=3e-4, tokens_per_second=21034.4, grad_norm=9.0)
    progress.note("a note")
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "pretrain: 50/100  loss 2.500  lr 3.0e-04  21,034 tok/s  50s left"
    assert lines[1].startswith("pretrain: 60/100") and lines[1].endswith("40s left")
    assert [line.split()[1] for line in lines[:3]] == ["50/100", "60/100", "70/100"]
    assert lines[3] == "a note"


def test_no_promise_before_there_is_a_pace() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, seconds=0, clock=clock)
    progress.start("reading", None)
    progress.update(5)
    assert stream.getvalue() == "reading: 5\n"


def test_a_closed_pipe_does_not_stop_training() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    stream.close()
    progress.note("nobody reads this")


def test_the_bar_shows_the_figures() -> None:
    stream = io.StringIO()
    progress = RichProgress(Console(file=stream, force_terminal=True, width=120))
    progress.start("sft", 10)
    progress.update(0)
    progress.update(10, loss=1.25, learning_rate=1e-3, tokens_per_second=20000)
    progress.note("[literally]")
    progress.finish()
    shown = stream.getvalue()
    for text in ("sft", "10/10", "loss 1.250", "lr 1.0e-03", "20,000 tok/s", "[literally]"):
        assert text in shown
    progress.finish()  # twice does no harm


def test_choice_by_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress(Terminal()), RichProgress)
    assert isinstance(make_progress(io.StringIO()), PlainProgress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
