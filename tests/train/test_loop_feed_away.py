"""A feed that waits for an endpoint: what was done is saved, and the run goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from training_toys import RandomFeed, config, step_folders, tiny_model

from luopan.errors import FeedUnavailable, Interrupted, LuopanError, TrainingError
from luopan.tokens.batch import Batch
from luopan.train.interrupt import current_wish
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics


class Waiting(RandomFeed):
    """Away at one step, until it is told to come back."""

    reads_weights: ClassVar[bool] = True

    def __init__(self, away: int = -1, *, stopped: bool = False, error: LuopanError | None = None) -> None:
        self.away, self.stopped = away, stopped
        self.error = error or FeedUnavailable("the judge cannot be reached", hint="See that it runs.")

    def micro_batches(self, step: int) -> list[Batch]:
        if step == self.away and self.stopped:
            wish = current_wish()
            assert wish is not None
            with wish.prompt():
                os.kill(os.getpid(), signal.SIGTERM)
        if step == self.away:
            raise self.error
        return super().micro_batches(step)


def train(folder: Path, feed: Any, model: Any = None) -> torch.Tensor:
    model = model or tiny_model()
    settings = config(max_steps=6, logging_steps=2, save_steps=100)
    fit(model, feed, causal_lm_loss, settings, folder, device="cpu", seed=0, progress=SilentProgress())
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def lines(folder: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(folder)]


@pytest.mark.parametrize("away", [3, 4])  # in the middle of a line's window, and right after a line
@pytest.mark.parametrize("stopped", [False, True])
def test_it_saves_and_stops_and_goes_on_bitwise(tmp_path: Path, away: int, stopped: bool) -> None:
    alone = train(tmp_path / "alone", Waiting())
    with pytest.raises(Interrupted if stopped else FeedUnavailable) as caught:
        train(tmp_path / "away", Waiting(away, stopped=stopped))
    assert f"step {away} of 6" in str(caught.value) and "Run the same command again" in str(caught.value)
    assert caught.value.exit_code == (130 if stopped else 75)
    assert step_folders(tmp_path / "away") == [f"step-{away:06d}"]
    assert torch.equal(train(tmp_path / "away", Waiting()), alone)
    assert lines(tmp_path / "away") == lines(tmp_path / "alone")


def test_before_the_first_update_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(FeedUnavailable) as caught:
        train(tmp_path, Waiting(0))
    assert caught.value.hint == "See that it runs. Run the same command again to go on."
    assert not (tmp_path / "checkpoints").exists() and current_wish() is None


def test_away_again_right_after_a_resume_it_keeps_the_checkpoint(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FeedUnavailable, match="cannot be reached"):
            train(tmp_path / "away", Waiting(3))
        assert step_folders(tmp_path / "away") == ["step-000003"]
    assert torch.equal(train(tmp_path / "away", Waiting()), train(tmp_path / "alone", Waiting()))


def test_what_ends_the_feed_for_good_costs_no_update_either(tmp_path: Path) -> None:
    """An endpoint that answers 404, a round that keeps no answer: the updates before it are paid for."""
    error = TrainingError("round 4 keeps 0 of 576 answers", hint="Ask for more.")
    with pytest.raises(TrainingError, match="round 4 keeps 0") as caught:
        train(tmp_path / "away", Waiting(4, error=error))
    assert caught.value.hint == "Ask for more. Everything up to step 4 of 6 is saved." and caught.value.exit_code == 2
    assert step_folders(tmp_path / "away") == ["step-000004"]
    assert torch.equal(train(tmp_path / "away", Waiting()), train(tmp_path / "alone", Waiting()))
