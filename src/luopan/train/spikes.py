"""Which updates are left out: numbers that are not finite, an empty step, a loss or gradient far above the usual.

`judge` works on the device and waits for nothing: it compares the step's mean loss and gradient norm with the mean and
standard deviation of the last `spike_window` good steps. `check` reads, now and then, what was judged since. Steps that
were left out do not enter the window, so that a NaN or a spike cannot raise the bar for the next one, nor do steps
whose gradient is zero. The whole of it goes into the checkpoint, bit for bit.

The loop calls `bad = guard.judge(loss, norm, weight)` in each step, with values summed over the ranks, and
`verdict = guard.check(step)` before it saves or logs. What follows from a verdict (going back, giving up) is the loop's
business; `diagnosis` words it.

Limits: nothing is judged by its size before half the window is filled. A step that is worse for good (another data
mixture within one run) looks like a spike in every step, and the run gives up after `max_rewinds`: `spike_sigma: null`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luopan.errors import TrainingError
from luopan.train.config import TrainConfig

NO_WEIGHT, BAD_LOSS, BAD_NORM, HIGH_LOSS, HIGH_NORM = 1, 2, 4, 8, 16
# A loss that stands still has a deviation of zero, and rounding would be a spike. Below 0.1% of the mean the deviation
# counts as 0.1%: with 6 sigma nothing within 0.6% of the mean is a spike.
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Skipped:
    """An update that was left out: `step` counts from 0; loss and norm are the step's means, before clipping."""

    step: int
    loss: float
    norm: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What `check` found: updates left out since the last check, how many in a row up to now, any without a target."""

    new: tuple[Skipped, ...]
    in_a_row: int
    empty: bool


class SpikeGuard:
    """Judges every step on the device and remembers the good ones."""

    def __init__(self, config: TrainConfig, device: torch.device | str) -> None:
        self.sigma, self.window = config.spike_sigma, config.spike_window
        self.device = torch.device(device)
        self.rings = torch.zeros(2, self.window, device=self.device)  # losses and norms of good steps
        self.places = torch.arange(self.window, device=self.device)
        # Made here: making a tensor of Python numbers on a GPU waits for it.
        self.bad_codes = torch.tensor((BAD_LOSS, BAD_NORM), device=self.device)
        self.high_codes = torch.tensor((HIGH_LOSS, HIGH_NORM), device=self.device)
        self.good = torch.zeros((), dtype=torch.int64, device=self.device)  # steps written into the rings so far
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=self.device)
        self.waiting: list[Tensor] = []  # [loss, norm, code, loss limit, norm limit] of steps not checked yet
        self.skipped = 0
        """Updates left out so far, as of the last check."""

    def judge(self, loss: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        """1 where the update must be left out, else 0 (fp32 scalar on the device); nothing is read from the device.

        `loss` is the step's mean loss, `norm` the gradient norm of that mean before clipping, `weight` what both were
        divided by; all scalars, equal on all ranks.
        """
        values = torch.stack((loss, norm)).detach().to(self.rings)  # [2]
        limits = self.limits()  # [2]
        finite = torch.isfinite(values)
        codes = ~finite * self.bad_codes + (finite & (values > limits)) * self.high_codes
        code = torch.where(weight == 0, NO_WEIGHT, codes.sum())
        fine = code == 0
        # A step without any gradient (on policy: all answers worth the same) says nothing about those with one.
        tells = fine & (values[1] != 0)
        here = (self.places == self.good % self.window) & tells  # [window]: where a good step is written
        self.rings = torch.where(here, values.nan_to_num()[:, None], self.rings)
        self.good = self.good + tells
        self.in_a_row = (self.in_a_row + 1) * ~fine
        self.waiting.append(torch.cat((values, code[None].to(values), limits)))
        return (~fine).to(torch.float32)

    def limits(self) -> Tensor:
        """The largest loss and norm that pass now: [2]; infinite while half the window is not filled."""
        if self.sigma is None:
            return torch.full_like(self.rings[:, 0], float("inf"))
        filled = self.good.clamp(max=self.window)
        used = self.places < filled
        count = filled.clamp(min=1)
        mean = self.rings.sum(1) / count  # places not used hold 0
        spread = ((self.rings - mean[:, None]).square() * used).sum(1) / count
        deviation = torch.maximum(spread.sqrt(), LEAST_DEVIATION * mean.abs())
        return torch.where(2 * filled >= self.window, mean + self.sigma * deviation, float("inf"))

    def check(self, step: int) -> Verdict:
        """Read what was judged since the last check; `step` updates are done, left out or not. Waits for the device."""
        rows = self.read()
        first = step - len(rows)
        new = tuple(
            Skipped(first + place, row[0], row[1], reason_text(int(row[2]), row))
            for place, row in enumerate(rows)
            if row[2]
        )
        empty = any(int(row[2]) == NO_WEIGHT for row in rows)
        self.skipped += len(new)
        self.waiting = []
        return Verdict(new, int(self.in_a_row), empty)

    def read(self) -> list[list[float]]:
        """What waits, on the host."""
        return torch.stack(self.waiting).tolist() if self.waiting else []

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint, as JSON holds it (fp32 numbers survive the way there and back)."""
        return {
            "rings": self.rings.tolist(),
            "good": int(self.good),
            "in_a_row": int(self.in_a_row),
            "skipped": self.skipped,
            "waiting": self.read(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint. Where `spike_window` has changed since, the window starts empty."""
        rings = torch.tensor(state["rings"], dtype=torch.float32, device=self.device)
        if rings.shape == self.rings.shape:
            self.rings = rings
            self.good = torch.tensor(state["good"], dtype=torch.int64, device=self.device)
        self.in_a_row = torch.tensor(state["in_a_row"], dtype=torch.int64, device=self.device)
        self.skipped = state["skipped"]
        self.waiting = [torch.tensor(row, dtype=torch.float32, device=self.device) for row in state["waiting"]]

    def rewound(self, skipped: int) -> None:
        """After going back to a checkpoint: other batches follow, so the row of bad ones is over.

        `skipped` is the count of before: what was left out on the way that is given up has happened all the same.
        """
        self.in_a_row = torch.zeros_like(self.in_a_row)
        self.waiting = []
        self.skipped = skipped


def reason_text(code: int, row: list[float]) -> str:
    """Why an update was left out, in words; `row` is [loss, norm, code, loss limit, norm limit]."""
    if code == NO_WEIGHT:
        return "no trained token"
    reasons = []
    if code & BAD_LOSS:
        reasons.append("loss not finite")
    if code & BAD_NORM:
        reasons.append("gradient norm not finite")
    if code & HIGH_LOSS:
        reasons.append(f"loss {row[0]:.4g} above {row[3]:.4g}")
    if code & HIGH_NORM:
        reasons.append(f"gradient norm {row[1]:.4g} above {row[4]:.4g}")
    return ", ".join(reasons)


def warning(new: tuple[Skipped, ...], total: int) -> str:
    """One line for newly skipped updates; `total` counts those of the whole run."""
    last = new[-1]
    return (
        f"WARNING: {len(new)} of the updates up to step {last.step} left out ({total} in all); the last: {last.reason}."
    )


def diagnosis(
    verdict: Verdict, step: int, config: TrainConfig, rewinds: int, has_checkpoint: bool = False
) -> TrainingError:
    """The error for a run that cannot go on: an empty step, or bad steps in a row with no rewind left."""
    if verdict.empty:
        place = next((one.step for one in verdict.new if one.reason == "no trained token"), step - 1)
        return TrainingError(
            f"there is nothing to learn in step {place}: no trained token in the whole step",
            hint="Look at what is trained (luopan template render); max_length may cut off every answer.",
        )
    reason = verdict.new[-1].reason if verdict.new else "loss or gradient not usable"
    back = f", after going back to a checkpoint {rewinds} times" if rewinds else ""
    high = "above" in reason
    return TrainingError(
        f"{verdict.in_a_row} updates in a row were left out, up to step {step - 1}{back} ({reason})",
        hint=(
            "Lower learning_rate or max_grad_norm, or lengthen the warm-up; skipped.jsonl names the documents. "
            + ("If such steps are right for this data: spike_sigma: null. " if high else "")
            + ("The last checkpoint is sound." if has_checkpoint else "There is no checkpoint yet.")
        ),
    )
