"""Signals and the deadline: a wish between steps, an exception in prompt places, exit codes 130 and 75."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from luopan.errors import Interrupted, RecipeError
from luopan.train.interrupt import (
    StopNow,
    StopWish,
    deadline,
    orderly_sigterm,
    parse_duration,
    stop_on_signal,
)


def press(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_the_handlers_come_back(number: int) -> None:
    before, notes = signal.getsignal(number), []
    with stop_on_signal(notes.append) as wish:
        assert not wish.wished and wish.name is None
        press(number)
        assert wish.wished and wish.name == signal.Signals(number).name
    assert signal.getsignal(number) is before and len(notes) == 1
    error = wish.interrupted(3, 6)
    assert error.exit_code == 130 and "after step 3 of 6" in str(error)
    assert Interrupted("x").exit_code == 130, "the class must not change with the instance"


def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal(lambda text: None) as wish:
        press(signal.SIGTERM)
        press(signal.SIGTERM)
        assert wish.name == "SIGTERM"
        press(signal.SIGINT)


def test_inside_prompt_a_signal_stops_a_long_evaluation_at_once() -> None:
    began = time.monotonic()
    with stop_on_signal(lambda text: None) as wish:
        threading.Timer(0.1, press, (signal.SIGTERM,)).start()
        with pytest.raises(StopNow), wish.prompt():
            try:
                time.sleep(30)
            except Exception:
                pytest.fail("an evaluation that catches everything must not swallow it")
        assert time.monotonic() - began < 10 and wish.wished
        press(signal.SIGTERM)  # outside again, while the loop saves: nothing is raised


def test_a_signal_before_prompt_stops_on_entering() -> None:
    entered = False
    with stop_on_signal(lambda text: None) as wish:
        press(signal.SIGINT)
        with pytest.raises(StopNow), wish.prompt():
            entered = True
    assert not entered and wish.at_once == 0


def test_the_deadline_is_a_wish_with_a_code_of_its_own() -> None:
    now = [100.0]
    wish = StopWish(stop_at=110.0, clock=lambda: now[0])
    assert not wish.wished
    now[0] = 110.0
    assert wish.wished and wish.name == "the deadline"
    assert wish.interrupted(1, 2).exit_code == 75
    assert wish.interrupted(1, 2, "SIGTERM").exit_code == 130


def test_the_deadline_interrupts_a_prompt_place() -> None:
    began, notes = time.monotonic(), []
    with stop_on_signal(notes.append, stop_at=began + 0.2) as wish:
        with pytest.raises(StopNow), wish.prompt():
            time.sleep(30)
        assert time.monotonic() - began < 10
    assert wish.name == "the deadline" and "time is over" in notes[0] and len(notes) == 1
    assert wish.interrupted(1, 2).exit_code == 75


def test_an_alarm_that_was_not_needed_never_fires() -> None:
    before, began = threading.active_count(), time.monotonic()
    with stop_on_signal(lambda text: None, stop_at=began + 60):
        pass
    assert time.monotonic() - began < 10, "leaving must not wait for the deadline"
    with deadline(time.monotonic() + 0.3):
        pass
    with stop_on_signal(lambda text: None, stop_at=time.monotonic() + 0.3):
        pass
    patience = time.monotonic() + 10  # a timer that was called off ends by itself, a moment later
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() <= before
    time.sleep(0.5)  # a SIGTERM would end the test run


def test_in_another_thread_the_deadline_still_works() -> None:
    seen = []

    def work() -> None:
        with stop_on_signal(lambda text: None, stop_at=time.monotonic() - 1) as wish:
            seen.append(wish.name)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["the deadline"]


def test_sigterm_outside_a_training_unwinds_like_ctrl_c() -> None:
    before, cleaned = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(KeyboardInterrupt), orderly_sigterm():
        try:
            press(signal.SIGTERM)
            time.sleep(30)
        finally:
            press(signal.SIGTERM)  # an impatient scheduler
            cleaned.append(True)
    assert cleaned and signal.getsignal(signal.SIGTERM) is before


def test_inside_a_training_the_wish_goes_before_the_orderly_end() -> None:
    with orderly_sigterm():
        with stop_on_signal(lambda text: None) as wish:
            press(signal.SIGTERM)
            assert wish.wished
        with pytest.raises(KeyboardInterrupt):
            press(signal.SIGTERM)


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), Interrupted("stopped in stage x")])
def test_what_stops_a_run_before_the_deadline_keeps_its_code(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, deadline(time.monotonic() + 60):
        raise raised
    assert getattr(caught.value, "exit_code", 130) == 130


def test_a_run_that_stopped_itself_at_the_deadline_has_its_code() -> None:
    with pytest.raises(Interrupted) as caught, stop_on_signal(lambda text: None), deadline(time.monotonic() + 0.05):
        time.sleep(0.2)
        raise Interrupted("stopped in stage x")
    assert caught.value.exit_code == 75


def test_the_deadline_of_the_command_line_ends_any_stage() -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught, orderly_sigterm(), deadline(began + 0.2):
        time.sleep(30)
    assert caught.value.exit_code == 75 and time.monotonic() - began < 10


def test_both_alarms_at_once_still_save_in_peace() -> None:
    """The command line's alarm and the training's come together; the second must not disturb the saving."""
    stop_at = time.monotonic() + 0.2
    with (
        orderly_sigterm(),
        pytest.raises(Interrupted) as caught,
        deadline(stop_at),
        stop_on_signal(lambda text: None, stop_at=stop_at) as wish,
    ):
        while not wish.wished:
            time.sleep(0.01)
        time.sleep(0.5)  # saving
        raise wish.interrupted(1, 2)
    assert caught.value.exit_code == 75


def test_an_ignored_sigint_stays_ignored() -> None:
    script = (
        "import os, signal\n"
        "from luopan.train.interrupt import stop_on_signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with stop_on_signal(print) as wish:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(wish.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n", done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10800), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3x", "3h ", "-3h", "3h5", "1:30"])
def test_no_lengths_of_time(text: str) -> None:
    with pytest.raises(RecipeError, match="no length of time"):
        parse_duration(text)
