"""What the loop does when something goes wrong: spikes, rewinds, full disks, deadlines, memory, and branches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from training_toys import RandomFeed, batch, config, step_folders, tiny_model

from luopan.errors import DiskFullError, Interrupted, RecipeError, TrainingError
from luopan.objectives.base import LossTerm
from luopan.tokens.batch import Batch
from luopan.train import checkpoint as checkpoints
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics


def run(folder: Path, model=None, feed=None, loss=causal_lm_loss, settings=None, **rest):
    rest.setdefault("progress", SilentProgress())
    model = model or tiny_model()
    return fit(model, feed or RandomFeed(), loss, settings or config(), folder, device="cpu", seed=0, **rest)


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class NamedFeed:
    """Batches whose number can be read off them, and which have documents."""

    prefetchable = True

    def __init__(self) -> None:
        self.asked: list[int] = []

    def micro_batches(self, step: int) -> list[Batch]:
        self.asked.append(step)
        made = batch(step)
        made.per_document["number"] = torch.full((made.num_documents,), step)  # type: ignore[index]
        return [made]

    def describe(self, step: int) -> list[str]:
        return [f"book:{step}"]


def poison(*numbers: int, factor: float = float("nan")):
    """A loss that goes wrong on the batches of these numbers, whenever they are read."""

    def loss(model, given: Batch) -> LossTerm:
        term = causal_lm_loss(model, given)
        wrong = int(given.per_document["number"][0]) in numbers
        return LossTerm(term.total * (factor if wrong else 1.0), term.weight, term.metrics)

    return loss


# ---- spikes and going back ----


def test_a_spike_is_left_out_and_its_documents_are_named(tmp_path: Path) -> None:
    settings = config(max_steps=30, spike_window=16, logging_steps=30, learning_rate=1e-4)
    result = run(tmp_path, feed=NamedFeed(), loss=poison(20, factor=50.0), settings=settings)
    assert result.skipped_steps == 1
    (line,) = [json.loads(text) for text in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert line["step"] == 20 and line["documents"] == ["book:20"] and "above" in line["reason"]


def test_a_left_out_update_changes_nothing(tmp_path: Path) -> None:
    """The weights are those of a run whose learning never met the batch."""
    one, other = tiny_model(), tiny_model()
    run(tmp_path / "one", one, NamedFeed(), poison(2), config(max_steps=4))

    class Without(NamedFeed):
        def micro_batches(self, step: int) -> list[Batch]:
            return super().micro_batches(step if step < 2 else step + 1)

    run(tmp_path / "other", other, Without(), settings=config(max_steps=3))
    assert torch.equal(weights(one), weights(other))


def test_too_many_in_a_row_go_back_and_leave_those_batches_out(tmp_path: Path) -> None:
    feed, model, progress = NamedFeed(), tiny_model(), SilentProgress()
    settings = config(max_steps=10, save_steps=2, max_skipped_in_a_row=3, logging_steps=1)
    result = run(tmp_path, model, feed, poison(5, 6, 7), settings, progress=progress)
    # Updates 5, 6, 7 fail; the checkpoint from before them is that of 4 updates; batches 4 to 7 are left out.
    assert result.rewinds == 1 and result.steps == 10
    assert any("Went back to step 4" in note for note in progress.notes)
    (record,) = json.loads((tmp_path / "rewinds.json").read_text())
    assert (record["update"], record["offset"], record["documents"]) == (4, 4, ["book:7"])
    assert result.skipped_steps == record["skipped"] == 3
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 11))
    expected = tiny_model()

    class Without(NamedFeed):
        def micro_batches(self, step: int) -> list[Batch]:
            return super().micro_batches(step if step < 4 else step + 4)

    run(tmp_path / "expected", expected, Without(), settings=config(max_steps=10))
    assert torch.equal(weights(model), weights(expected))


def test_a_run_that_went_back_resumes_bitwise(tmp_path: Path) -> None:
    settings = config(max_steps=10, save_steps=2, max_skipped_in_a_row=3)
    alone = tiny_model()
    run(tmp_path / "alone", alone, NamedFeed(), poison(5, 6, 7), settings)

    class Dies(NamedFeed):
        def micro_batches(self, step: int) -> list[Batch]:
            if step == 11:  # after the rewind: update 7
                raise RuntimeError("power cut")
            return super().micro_batches(step)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", None, Dies(), poison(5, 6, 7), settings)
    model = tiny_model()
    result = run(tmp_path / "cut", model, NamedFeed(), poison(5, 6, 7), settings)
    assert result.resumed_from == 6 and result.rewinds == 1 and result.skipped_steps == 3
    assert torch.equal(weights(model), weights(alone))


def test_a_kill_right_after_going_back_forgets_nothing(tmp_path: Path) -> None:
    settings = config(max_steps=10, save_steps=2, max_skipped_in_a_row=3)

    class Dies(NamedFeed):
        def micro_batches(self, step: int) -> list[Batch]:
            if step == 8:  # the first batch after the rewind
                raise RuntimeError("power cut")
            return super().micro_batches(step)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, None, Dies(), poison(5, 6, 7), settings)
    result = run(tmp_path, None, NamedFeed(), poison(5, 6, 7), settings)
    assert result.resumed_from == 4 and result.skipped_steps == 3 and result.rewinds == 1


def test_saves_wait_while_steps_are_bad_so_that_there_is_something_to_go_back_to(tmp_path: Path) -> None:
    settings = config(max_steps=14, save_steps=1, save_total_limit=2, max_skipped_in_a_row=5)
    result = run(tmp_path, feed=NamedFeed(), loss=poison(*range(5, 10)), settings=settings)
    assert result.rewinds == 1 and result.steps == 14


def test_a_diagnosis_does_not_promise_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="There is no checkpoint yet"):
        run(tmp_path, feed=NamedFeed(), loss=poison(*range(9)), settings=config(max_steps=9))


def test_after_the_last_rewind_the_run_stops_with_a_diagnosis(tmp_path: Path) -> None:
    settings = config(max_steps=40, save_steps=2, max_skipped_in_a_row=3, max_rewinds=2)
    with pytest.raises(TrainingError, match="after going back to a checkpoint 2 times"):
        run(tmp_path, feed=NamedFeed(), loss=poison(*range(5, 60)), settings=settings)


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="3 updates in a row"):
        run(tmp_path, feed=NamedFeed(), loss=poison(*range(9)), settings=config(max_steps=9, max_skipped_in_a_row=3))


# ---- saving ----


def test_a_full_disk_during_a_save_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, progress = checkpoints.write_tensors, SilentProgress()

    def full(folder: Path, tensors, **rest) -> None:
        if "000004" in folder.name:
            raise DiskFullError("the disk is full", where=folder)
        write(folder, tensors, **rest)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    result = run(tmp_path, settings=config(max_steps=6, save_steps=2), progress=progress)
    assert result.steps == 6
    assert any("step 4 could not be saved" in note and "step 2" in note for note in progress.notes)
    assert step_folders(tmp_path) == ["step-000002", "step-000006"]


def test_a_full_disk_at_the_end_is_an_error_and_earlier_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write_tensors

    def full(folder: Path, tensors, **rest) -> None:
        if "000004" in folder.name:
            raise DiskFullError("the disk is full", where=folder)
        write(folder, tensors, **rest)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(DiskFullError):
        run(tmp_path, settings=config(max_steps=4, save_steps=2))
    assert step_folders(tmp_path) == ["step-000002"]


@pytest.mark.parametrize("in_background", [True, False])
def test_background_saves_hold_the_moment_they_were_asked_for(tmp_path: Path, in_background: bool) -> None:
    """Training goes on while a checkpoint is written; what is in it must not."""
    settings = config(max_steps=6, save_steps=2, save_total_limit=3, async_save=in_background)
    alone = tiny_model()
    run(tmp_path, alone, settings=settings)
    for step in (4, 6):
        checkpoints.discard(tmp_path / "checkpoints" / f"step-{step:06d}")
    model = tiny_model()
    result = run(tmp_path, model, settings=settings)
    assert result.resumed_from == 2 and torch.equal(weights(model), weights(alone))


# ---- stopping ----


def test_the_deadline_saves_and_leaves_with_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="deadline after step 1 of 4") as caught:
        run(tmp_path, stop_at=time.monotonic() - 1.0)
    assert caught.value.exit_code == 75
    assert step_folders(tmp_path) == ["step-000001"]
    assert run(tmp_path).resumed_from == 1


def test_the_deadline_cuts_a_long_evaluation_short_and_it_comes_again(tmp_path: Path) -> None:
    seen: list[int] = []

    def slow(step: int, model) -> None:
        seen.append(step)
        if step == 2 and seen.count(2) == 1:
            time.sleep(60)

    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, hooks=[slow], stop_at=began + 2.0)
    assert caught.value.exit_code == 75 and time.monotonic() - began < 30
    assert step_folders(tmp_path) == ["step-000002"]
    run(tmp_path, hooks=[slow])
    assert seen == [1, 2, 2, 3, 4]


def test_a_signal_during_the_last_save_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints.write_tensors

    def slow(folder: Path, tensors, **rest) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(folder, tensors, **rest)

    monkeypatch.setattr(checkpoints, "write_tensors", slow)
    with pytest.raises(Interrupted, match="SIGTERM after step 4 of 4"):
        run(tmp_path, settings=config(max_steps=4))
    monkeypatch.undo()
    assert run(tmp_path, settings=config(max_steps=4)).resumed_from == 4


def test_waiting_for_an_upload_is_no_standstill_and_a_signal_ends_it(tmp_path: Path) -> None:
    settings = config(
        max_steps=2,
        stuck_after_seconds=0.5,
        upload_command=(sys.executable, "-c", "import time; time.sleep(60)", "{folder}"),
    )
    threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    progress, began = SilentProgress(), time.monotonic()
    with pytest.raises(Interrupted):
        run(tmp_path, settings=settings, progress=progress)
    assert time.monotonic() - began < 40
    assert not any("no step has ended" in note for note in progress.notes)


# ---- branches, averages, probes ----


def test_a_branch_goes_on_with_the_same_weights_moments_and_data(tmp_path: Path) -> None:
    """A stable phase of 6 updates and a decay of 4 from its checkpoint are the 10 updates of one run."""
    whole, decayed = tiny_model(), tiny_model()
    schedule = {"lr_scheduler_type": "wsd", "save_steps": 6}
    run(tmp_path / "whole", whole, settings=config(max_steps=10, decay_steps=4, **schedule))
    run(tmp_path / "stable", settings=config(max_steps=6, save_steps=6))
    branch = tmp_path / "stable" / "checkpoints"
    result = run(tmp_path / "decay", decayed, settings=config(max_steps=10, decay_steps=4, **schedule), branch=branch)
    assert torch.equal(weights(whole), weights(decayed))
    assert [line["step"] for line in read_metrics(tmp_path / "decay")] == [7, 8, 9, 10]
    assert result.tokens == 10 * 4 * 16 and any("Branched from" in note for note in result.notes)


def test_a_branch_must_leave_something_to_do(tmp_path: Path) -> None:
    run(tmp_path / "stable")
    with pytest.raises(TrainingError, match="max_steps is 4"):
        run(tmp_path / "decay", branch=tmp_path / "stable" / "checkpoints" / "step-000004")


def test_the_average_becomes_the_model_and_survives_a_resume(tmp_path: Path) -> None:
    settings = config(max_steps=6, save_steps=3, ema_decay=0.5)
    averaged, plain, again = tiny_model(), tiny_model(), tiny_model()
    run(tmp_path / "ema", averaged, settings=settings)
    run(tmp_path / "plain", plain, settings=config(max_steps=6))
    assert not torch.equal(weights(averaged), weights(plain))
    checkpoints.discard(tmp_path / "ema" / "checkpoints" / "step-000006")
    assert run(tmp_path / "ema", again, settings=settings).resumed_from == 3
    assert torch.equal(weights(averaged), weights(again))


def test_a_branch_of_a_run_that_went_back_reads_on_where_that_one_was(tmp_path: Path) -> None:
    settings = {"save_steps": 2, "max_skipped_in_a_row": 3}
    run(tmp_path / "stable", None, NamedFeed(), poison(5, 6, 7), config(max_steps=8, **settings))
    feed = NamedFeed()
    branch = tmp_path / "stable" / "checkpoints"
    result = run(tmp_path / "decay", None, feed, settings=config(max_steps=10, **settings), branch=branch)
    assert feed.asked == [12, 13] and result.rewinds == 0


def test_a_branch_with_another_batch_or_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "stable")
    branch = tmp_path / "stable" / "checkpoints"
    with pytest.raises(TrainingError, match="gradient_accumulation_steps"):
        run(tmp_path / "one", settings=config(max_steps=8, gradient_accumulation_steps=2), branch=branch)
    with pytest.raises(TrainingError, match="model, optim and ema_decay must be those"):
        run(tmp_path / "two", settings=config(max_steps=8, ema_decay=0.9), branch=branch)


class TwoMicro:
    prefetchable = True

    def micro_batches(self, step: int) -> list[Batch]:
        return [batch(2 * step), batch(2 * step + 1)]


def test_the_noise_scale_is_logged_without_changing_the_run(tmp_path: Path) -> None:
    probed, plain = tiny_model(), tiny_model()
    settings = {"max_steps": 12, "gradient_accumulation_steps": 2, "learning_rate": 1e-4}
    run(tmp_path / "probed", probed, TwoMicro(), settings=config(critical_batch_probe=True, **settings))
    run(tmp_path / "plain", plain, TwoMicro(), settings=config(**settings))
    assert torch.equal(weights(probed), weights(plain))
    figures = [line["critical_batch_tokens"] for line in read_metrics(tmp_path / "probed")]
    assert len(figures) == 12 and any(figure is not None and figure > 0 for figure in figures)


def test_group_norms_make_up_the_whole_norm(tmp_path: Path) -> None:
    run(tmp_path)
    for line in read_metrics(tmp_path):
        parts = [value for name, value in line.items() if name.startswith("grad_norm/")]
        assert len(parts) >= 3
        assert sum(part**2 for part in parts) ** 0.5 == pytest.approx(line["grad_norm"], rel=1e-5)


# ---- reading ahead ----


def test_batches_are_made_ahead_in_order_and_only_where_allowed(tmp_path: Path) -> None:
    feed = NamedFeed()
    run(tmp_path / "ahead", feed=feed)
    assert feed.asked == [0, 1, 2, 3]
    order: list[str] = []

    class Reads(RandomFeed):
        """A feed that samples from the weights: asked early it would see old ones."""

        def micro_batches(self, step: int) -> list[Batch]:
            order.append(f"feed {step}")
            return super().micro_batches(step)

    run(tmp_path / "policy", feed=Reads(), hooks=[lambda step, model: order.append(f"update {step}")])
    assert order == [text for step in range(4) for text in (f"feed {step}", f"update {step + 1}")]


def test_an_error_in_the_feed_comes_out_whole(tmp_path: Path) -> None:
    class Broken(NamedFeed):
        def micro_batches(self, step: int) -> list[Batch]:
            if step == 2:
                raise RecipeError("the corpus lacks a file")
            return super().micro_batches(step)

    with pytest.raises(RecipeError, match="lacks a file"):
        run(tmp_path, feed=Broken())


# ---- memory ----


def test_out_of_memory_says_what_was_expected_and_what_to_change(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from training_toys import RandomFeed, batch, config, tiny_model
from luopan.errors import TrainingError
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress

class Wide:
    def micro_batches(self, step):
        return [batch(step, rows=60_000 if step else 4)]

used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000, used + 600_000_000))
settings = config(prefetch=False, per_device_train_batch_size=60_000)
try:
    fit(tiny_model(num_hidden_layers=4), Wide(), causal_lm_loss, settings, Path(sys.argv[1]),
        device="cpu", seed=0, progress=SilentProgress())
except TrainingError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        timeout=300,
    )
    assert "out of memory in step 1: expected" in done.stdout, done.stdout + done.stderr
    assert "per_device_train_batch_size=30000 gradient_accumulation_steps=2" in done.stdout
    assert done.stdout.count("GB") + done.stdout.count("MB") >= 4
