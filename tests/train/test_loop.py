"""The loop: what it trains, writes, refuses, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from training_toys import LENGTH, RandomFeed, batch, config, step_folders, tiny_model

from luopan.errors import ArtifactError, Interrupted, TrainingError
from luopan.objectives.base import LossTerm
from luopan.tokens.batch import Doc, collate
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics


def run(folder: Path, model=None, feed=None, loss=causal_lm_loss, settings=None, seed: int = 0, **rest):
    model = model or tiny_model()
    progress = rest.pop("progress", SilentProgress())
    settings = settings or config()
    return fit(model, feed or RandomFeed(), loss, settings, folder, device="cpu", seed=seed, progress=progress, **rest)


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class SameFeed:
    def micro_batches(self, step: int):
        return [batch(0)]


def test_it_learns_and_says_what_it_did(tmp_path: Path) -> None:
    lines: list[dict] = []
    result = run(tmp_path, feed=SameFeed(), settings=config(max_steps=40, logging_steps=10), on_log=lines.append)
    assert lines == read_metrics(tmp_path) and [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert set(lines[0]) >= {
        "step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds", "skipped_steps",
    }  # fmt: skip
    assert lines[-1]["tokens"] == result.tokens == 40 * 4 * LENGTH
    assert (result.steps, result.skipped_steps, result.resumed_from) == (40, 0, None)
    assert result.last == lines[-1] and result.peak_memory_bytes > 0


def test_the_logged_loss_is_the_mean_over_the_window(tmp_path: Path) -> None:
    run(tmp_path / "each", settings=config(max_steps=4, logging_steps=1))
    run(tmp_path / "window", settings=config(max_steps=4, logging_steps=4))
    each = [line["loss"] for line in read_metrics(tmp_path / "each")]
    assert read_metrics(tmp_path / "window")[0]["loss"] == pytest.approx(sum(each) / 4)
    with torch.no_grad():
        term = causal_lm_loss(tiny_model(), batch(0))
    assert each[0] == pytest.approx(float(term.total / term.weight))


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    model = tiny_model()
    run(tmp_path, model)

    class NoFeed:
        def micro_batches(self, step: int):
            raise AssertionError("asked for a batch")

    again = tiny_model(seed=9)
    result = run(tmp_path, again, NoFeed())
    assert torch.equal(weights(model), weights(again))
    assert (result.steps, result.resumed_from) == (4, 4)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("change", ["learning_rate", "seed", "shape"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: str) -> None:
    run(tmp_path)
    with pytest.raises(ArtifactError, match="other settings"):
        run(
            tmp_path,
            tiny_model(intermediate_size=48) if change == "shape" else None,
            settings=config(learning_rate=2e-2) if change == "learning_rate" else config(),
            seed=int(change == "seed"),
        )


def test_other_saving_and_logging_may_go_on(tmp_path: Path) -> None:
    run(tmp_path, settings=config(save_steps=2))
    run(tmp_path, settings=config(save_steps=3, logging_steps=2))


def test_a_parameter_without_gradient_is_an_error(tmp_path: Path) -> None:
    model = tiny_model()
    model.extra = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TrainingError, match="no gradient reaches extra in step 0"):
        run(tmp_path / "a", model)
    run(tmp_path / "b", model, settings=config(check_gradients=False))

    def loss_with_dead_path(model, batch) -> LossTerm:  # its gradient is there, and is zero
        term = causal_lm_loss(model, batch)
        return LossTerm(term.total + 0.0 * model.extra.sum(), term.weight)

    with pytest.raises(TrainingError, match="no gradient reaches extra"):
        run(tmp_path / "c", model, loss=loss_with_dead_path)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    model = tiny_model()
    model.norm.weight.requires_grad_(False)
    run(tmp_path, model)
    assert torch.equal(model.norm.weight, torch.ones_like(model.norm.weight))


def test_the_gradient_check_waits_for_a_step_that_teaches(tmp_path: Path) -> None:
    model = tiny_model()
    model.extra = torch.nn.Parameter(torch.ones(3))

    def quiet_at_first(model, given) -> LossTerm:
        term = causal_lm_loss(model, given)
        strength = 0.0 if torch.equal(given.input_ids, batch(0).input_ids) else 1.0
        return LossTerm(strength * term.total + 0.0 * model.extra.sum(), term.weight)

    with pytest.raises(TrainingError, match="in step 1"):
        run(tmp_path, model, loss=quiet_at_first)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    class Masked:
        def micro_batches(self, step: int):
            return [collate([[Doc([1, 2, 3], [-100] * 3)]], LENGTH, 0)]

    with pytest.raises(TrainingError, match="nothing to learn in step 0"):
        run(tmp_path, feed=Masked())
    assert not (tmp_path / "checkpoints").exists()


def test_no_batch_is_an_error(tmp_path: Path) -> None:
    class Empty:
        def micro_batches(self, step: int):
            return []

    with pytest.raises(TrainingError, match="gave no batch"):
        run(tmp_path, feed=Empty())


def poisoned(bad_steps: set[int]):
    """A loss that is not a number in the given steps."""
    calls = {"step": -1}

    def loss(model, given) -> LossTerm:
        calls["step"] += 1
        term = causal_lm_loss(model, given)
        factor = float("nan") if calls["step"] in bad_steps else 1.0
        return LossTerm(term.total * factor, term.weight, {"ones": (torch.tensor(factor), torch.tensor(1.0))})

    return loss


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    progress = SilentProgress()
    result = run(tmp_path, loss=poisoned({2, 3}), settings=config(max_steps=6, logging_steps=6), progress=progress)
    assert result.skipped_steps == 2
    assert any("left out (1 in all); the last: loss not finite" in note for note in progress.notes)
    (line,) = read_metrics(tmp_path)
    assert line["skipped_steps"] == 2 and line["ones"] == 1.0 and 2 < line["loss"] < 5


def test_five_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"5 updates in a row were left out, up to step 7"):
        run(tmp_path, loss=poisoned(set(range(3, 20))), settings=config(max_steps=30))


class Pressing(RandomFeed):
    """Somebody presses Ctrl-C, or the scheduler ends the job, in step 2."""

    def __init__(self, number: int) -> None:
        self.number = number

    def micro_batches(self, step: int):
        if step == 2:
            os.kill(os.getpid(), self.number)
        return super().micro_batches(step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_finishes_the_step_saves_and_goes_on_bitwise(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    alone = tiny_model()
    run(tmp_path / "alone", alone, settings=config(max_steps=6, logging_steps=2))
    progress = SilentProgress()
    with pytest.raises(Interrupted, match="after step 3 of 6") as caught:
        run(
            tmp_path / "stopped",
            feed=Pressing(number),
            settings=config(max_steps=6, logging_steps=2),
            progress=progress,
        )
    assert caught.value.exit_code == 130 and any("saved first" in note for note in progress.notes)
    assert step_folders(tmp_path / "stopped") == ["step-000003"]
    assert signal.getsignal(number) is before
    model = tiny_model()
    result = run(tmp_path / "stopped", model, settings=config(max_steps=6, logging_steps=2))
    assert result.resumed_from == 3 and torch.equal(weights(model), weights(alone))
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("alone", "stopped")]
    assert losses[0] == losses[1]


def test_interrupted_in_the_last_step_is_still_interrupted(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, feed=Pressing(signal.SIGINT), settings=config(max_steps=3))
    assert step_folders(tmp_path) == ["step-000003"]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Impatient(RandomFeed):
        def micro_batches(self, step: int):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().micro_batches(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, feed=Impatient())


def test_in_a_thread_it_trains_without_touching_signals(tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert results[0].steps == 4


def test_hooks_run_after_saving_and_once_more_after_a_failure(tmp_path: Path) -> None:
    seen: list[int] = []

    def evaluate(step: int, model) -> dict[str, float] | None:
        if step % 2:
            return None
        seen.append(step)
        if seen == [2, 4]:
            raise MemoryError
        return {"held_out": float(step)}

    settings = config(max_steps=6, save_steps=4, logging_steps=3)
    with pytest.raises(MemoryError):
        run(tmp_path, settings=settings, hooks=[evaluate])
    assert step_folders(tmp_path) == ["step-000004"]
    run(tmp_path, settings=settings, hooks=[evaluate])
    assert seen == [2, 4, 4, 6]
    lines = {line["step"]: line.get("held_out") for line in read_metrics(tmp_path)}
    assert lines == {2: 2.0, 3: None, 4: 4.0, 6: 6.0}


def test_masters_must_be_fp32(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fp32"):
        run(tmp_path, tiny_model().to(torch.bfloat16))


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    seen = set()

    def spying(model, given) -> LossTerm:
        seen.add(model.hidden(given.input_ids, given.position_ids, given.layout).dtype)
        seen.add(model.logits(model.hidden(given.input_ids, given.position_ids, given.layout)).dtype)
        return causal_lm_loss(model, given)

    model = tiny_model()
    run(tmp_path, model, loss=spying, settings=config(precision="bf16", max_steps=2))
    assert torch.bfloat16 in seen
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    run(tmp_path, settings=config(max_steps=4, lr_scheduler_type="linear", learning_rate=1.0))
    assert [line["learning_rate"] for line in read_metrics(tmp_path)] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_metrics_lines_are_json(tmp_path: Path) -> None:
    run(tmp_path)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
