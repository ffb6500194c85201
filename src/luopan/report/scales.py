"""Axes: from values to places on the picture, and round numbers to write beside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto [start, end] in picture units, linearly or by logarithm (then low must be > 0)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            value = max(value, self.low * 1e-3)  # zero or less has no logarithm: well below the picture
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high, count)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 × 10^k within [low, high], about `count` of them."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], or 1-2-5 steps where there would be fewer than two."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [f * 10.0**e for e in exponents for f in factors if low * 0.999 <= f * 10.0**e <= high * 1.001]
        if len(ticks) >= 3:
            break
    if len(ticks) < 2:
        return nice_ticks(low, high, 4)
    while len(ticks) > 6:
        ticks = ticks[::2]
    return ticks


def extent(
    values: Iterable[float | None], *, from_zero: bool = False, log: bool = False, pad: float = 0.06
) -> tuple[float, float]:
    """The range to draw: finite values with a margin; (0, 1) for none; never of zero width."""
    finite = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if log:
        return (low / 1.15, high * 1.15) if high > low else (low / 2, high * 2)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        room = abs(high) * 0.1 or 1.0
        return (0.0 if from_zero and low >= 0 else low - room), high + room
    margin = (high - low) * pad
    return (low if from_zero and low >= 0 else low - margin), (high if from_zero and high <= 0 else high + margin)


def tick_label(value: float, ticks: list[float], unit: str = "") -> str:
    """A tick's text; all ticks of an axis get the same number of decimals."""
    if unit == "%":
        hundred = [100 * t for t in ticks]
        return f"{tick_label(100 * value, hundred)}%"
    largest = max((abs(t) for t in ticks), default=0.0)
    if value == 0:
        return "0"
    steps = [abs(b - a) for a, b in itertools.pairwise(ticks)] or [largest or 1.0]
    step = min(s for s in steps) or 1.0
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if largest >= 2 * 10**power or (power > 3 and largest >= 10**power):
            return _fixed(value / 10**power, step / 10**power) + letter
    if largest < 1e-2:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", "\u2212")
    return _fixed(value, step)


def _fixed(value: float, step: float) -> str:
    decimals = max(0, min(6, -math.floor(math.log10(step) + 1e-9)))
    text = f"{value:.{decimals}f}"
    if decimals and float(text) != 0 and abs(float(text) - value) > step / 20:
        text = f"{value:.{decimals + 1}f}"
    return text.replace("-", "\u2212")


def thin(points: list[tuple[float, float]], limit: int = 240) -> list[tuple[float, float]]:
    """At most about `limit` points that still show every spike: the lowest and highest of each stretch."""
    if len(points) <= limit:
        return points
    kept = [points[0]]
    stretches = limit // 2
    for i in range(stretches):
        part = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        if part:
            kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    kept.append(points[-1])
    return list(dict.fromkeys(kept))


def smoothed(points: list[tuple[float, float]], window: float = 0.04) -> list[tuple[float, float]]:
    """Centred moving mean over `window` of the points, narrower at the ends; keeps the number of points."""
    half = max(1, round(len(points) * window / 2))
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        out.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return out
