"""Is the policy learning its task, or its reward? Alarms over the lines of metrics of any stage that samples.

    watch = Watch(longest=256)
    for line in lines:                 # of metrics.jsonl; a line for step 0 may hold what was measured before
        for alarm in watch.look(line): print(alarm.text)

The mean over the last lines is compared with that over the first: `hacking` (the reward has risen, held-out prompts
are answered no better), `format` (what rose is the form, and not what a verifier says), `length` (answers grew to twice
their length, or to the limit), `entropy` (the policy says one thing only), `stop_rate` (answers no longer end). A
change counts where it is larger than its noise: three standard errors for what is logged at every step, two for what is
measured on held-out prompts. Each alarm is told once.

Limits: it knows names, not tasks; a task whose right answers are long will ring. It hears nothing of a policy that was
gaming its reward from the first step on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, variance
from typing import Any

LEAST_LINES, WINDOW = 8, 10  # before anything is judged; lines at either end
TWICE, NEAR_LIMIT = 2.0, 0.95
LEFT_OF_ENTROPY = 0.1
LOST_STOPS = 0.2
FORM = ("format", "soft_overlong")
"""Parts of the reward that say nothing of whether an answer is right."""


@dataclass(frozen=True)
class Alarm:
    """`text` says what was seen and what to do."""

    kind: str
    step: int
    text: str


@dataclass
class Watch:
    """See the module. `longest`: max_completion_length, where it is known."""

    longest: int | None = None
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    held_out: list[Mapping[str, Any]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def look(self, line: Mapping[str, Any]) -> list[Alarm]:
        """What is new with this line. A line of a step that is known already (of a resumed run) replaces it."""
        step = int(line["step"])
        for kept in (self.lines, self.held_out):
            while kept and int(kept[-1]["step"]) >= step:
                kept.pop()
        if any(name.startswith("held_out/") for name in line):
            self.held_out.append(line)
        if _number(line.get("reward")) is not None:
            self.lines.append(line)
        if len(self.lines) < LEAST_LINES:
            return []
        checks = (self._hacking, self._format, self._length, self._entropy, self._stops)
        texts = {check.__name__.strip("_"): check() for check in checks}
        found = [Alarm(kind, step, text) for kind, text in texts.items() if text and kind not in self.told]
        self.told |= {alarm.kind for alarm in found}
        return found

    # ---- what is looked for; "" for nothing ----

    def _hacking(self) -> str:
        reward = self._change("reward")
        if len(self.held_out) < 3 or reward is None or not reward.rose:
            return ""
        name = next((f"held_out/{one}" for one in ("accuracy", "reward") if f"held_out/{one}" in self.held_out[-1]), "")
        first, last = (_number(line.get(name)) for line in (self.held_out[0], self.held_out[-1]))
        if first is None or last is None:
            return ""
        errors = [_number(line.get(f"{name}_stderr")) or 0.0 for line in (self.held_out[0], self.held_out[-1])]
        if last - first > 2 * math.hypot(*errors):
            return ""
        return (
            f"the reward rose from {reward.first:.3g} to {reward.last:.3g}, but {_words(name)} went from {first:.3g} "
            f"to {last:.3g}: the policy may be gaming its reward. Read its answers (luopan rollouts): look for what "
            "the reward does not see."
        )

    def _format(self) -> str:
        reward, form = self._change("reward"), [self._change(f"reward/{name}") for name in FORM]
        others = [self._change(name) for name in self.lines[-1] if self._is_content(name)]
        rose = any(change is not None and change.rose for change in form)
        if reward is None or not reward.rose or not rose or not others:
            return ""
        if any(change is None or change.rose for change in others):
            return ""
        return (
            f"the reward rose from {reward.first:.3g} to {reward.last:.3g} by the form of the answers alone: no part "
            "that judges what they say has risen. Give the form less weight, or easier prompts at first."
        )

    def _length(self) -> str:
        change = self._change("completion_length")
        if change is None:
            return ""
        if self.longest is not None and change.last >= NEAR_LIMIT * self.longest and change.rose:
            return (
                f"answers have {change.last:.0f} tokens on average and the limit is {self.longest}: the policy runs "
                "into it. Use soft_overlong, or truncation: mask, or look whether the reward likes length."
            )
        if change.last <= TWICE * change.first or not change.rose:
            return ""
        return (
            f"answers grew from {change.first:.0f} to {change.last:.0f} tokens on average. If the task does not need "
            "it, the reward likes length: read the longest answers, and use soft_overlong."
        )

    def _entropy(self) -> str:
        change = self._change("entropy")
        if change is None or change.first <= 0 or change.last > LEFT_OF_ENTROPY * change.first:
            return ""
        return (
            f"the policy's entropy fell from {change.first:.3g} to {change.last:.3g} nats: it says one thing only, and "
            "groups will teach nothing. Lower the learning rate, raise epsilon_high, the temperature, or beta."
        )

    def _stops(self) -> str:
        change = self._change("stop_rate")
        if change is None or change.first - change.last < LOST_STOPS:
            return ""
        return (
            f"the share of answers that end fell from {change.first:.0%} to {change.last:.0%}. Answers that do not end "
            "should cost something (truncation: penalise), or max_completion_length is too small."
        )

    # ---- by name ----

    def _change(self, name: str) -> Change | None:
        """The mean over the first lines and over the last, None where there are too few with this figure."""
        some = WINDOW if len(self.lines) >= 2 * WINDOW else len(self.lines) // 2
        first, last = ([_number(line.get(name)) for line in part] for part in (self.lines[:some], self.lines[-some:]))
        old, new = ([value for value in values if value is not None] for values in (first, last))
        return Change.of(old, new) if min(len(old), len(new)) >= 2 else None

    def _is_content(self, name: str) -> bool:
        return name.startswith("reward/") and name.removeprefix("reward/") not in FORM


@dataclass(frozen=True)
class Change:
    """From one mean to another; `error` is the standard error of their difference."""

    first: float
    last: float
    error: float

    @classmethod
    def of(cls, old: Sequence[float], new: Sequence[float]) -> Change:
        return cls(fmean(old), fmean(new), math.sqrt(_noise(old) / len(old) + _noise(new) / len(new)))

    @property
    def rose(self) -> bool:
        """By more than three standard errors, and by more than a rounding error."""
        return self.last - self.first > max(3 * self.error, 1e-6)


def _noise(values: Sequence[float]) -> float:
    """Variance about the trend: half the mean square of neighbours' differences, which a steady rise hardly moves."""
    if len(values) < 3:
        return variance(values)
    return fmean((b - a) ** 2 for a, b in pairwise(values)) / 2


def alarms_of(lines: Iterable[Mapping[str, Any]], longest: int | None = None) -> list[Alarm]:
    """All that would have been told while these lines were written."""
    watch = Watch(longest)
    return [alarm for line in lines for alarm in watch.look(line)]


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _words(name: str) -> str:
    return {"held_out/accuracy": "accuracy on held-out prompts"}.get(name, "the reward on held-out prompts")
