"""Numbers as a reader wants them, and the verdict on a figure: better, worse, or no clear change.

Pure functions. None and NaN print as an en dash: a number that was not measured is never shown as zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from luopan.report.data import Figure

MISSING = "–"
MINUS = "\u2212"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def known(value: float | None) -> bool:
    """True for a finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, unit: str = "", stderr: float | None = None) -> str:
    """ "87.3%", "1.982", "12,340", "3.1M", "3e-5". With a standard error, as many decimals as it justifies."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if unit == "%":
        return f"{_plain(100 * value, _decimals_of_percent(stderr))}%"
    if known(stderr) and stderr and 1e-3 <= abs(value) < 1e5:
        return _plain(value, _decimals_of_error(stderr))
    return _short(value)


def with_unit(value: float | None, unit: str = "", stderr: float | None = None) -> str:
    text = number(value, unit, stderr)
    return text if unit in ("", "%") or text == MISSING else f"{text}\u00a0{unit}"


def error(stderr: float | None, unit: str = "") -> str:
    """ "± 1.2", or nothing where no standard error was given."""
    if stderr is None or not math.isfinite(stderr):
        return ""
    if unit == "%":
        return f"±\u00a0{_plain(100 * stderr, _decimals_of_percent(stderr))}"
    return f"±\u00a0{_plain(stderr, _decimals_of_error(stderr)) if stderr < 1e5 else _short(stderr)}"


def change(delta: float, unit: str = "", stderr: float | None = None) -> str:
    """A signed difference: "+42.0 points" for fractions, "−0.31 bits/byte"."""
    sign = "+" if delta > 0 else MINUS if delta < 0 else "±"
    if unit == "%":
        return f"{sign}{_plain(100 * abs(delta), _decimals_of_percent(stderr))}\u00a0points"
    text = number(abs(delta), unit, stderr)
    return f"{sign}{text}" + (f"\u00a0{unit}" if unit else "")


def _plain(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")  # no "-0.0"
    return text.replace("-", MINUS)


def _decimals_of_percent(stderr: float | None) -> int:
    return 2 if stderr is not None and 0 < stderr < 5e-4 else 1


def _decimals_of_error(stderr: float | None) -> int:
    if not stderr or not math.isfinite(stderr):
        return 2
    return max(0, min(6, 1 - math.floor(math.log10(abs(stderr)))))


def _short(value: float) -> str:
    """About three to four significant digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 999_950:
        return quantity(value)
    if float(value).is_integer():
        return _plain(value, 0)
    if size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".").replace("-", MINUS)
        return f"{mantissa}e{MINUS}{abs(int(exponent))}"
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 5
    text = _plain(value, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def quantity(value: float | None, unit: str = "") -> str:
    """ "3.02M", "1.2k", "7.8P" (powers of 1000): parameters, tokens, FLOPs."""
    if value is None or not math.isfinite(value):
        return MISSING
    tail = f"\u00a0{unit}" if unit else ""
    size, sign = abs(value), MINUS if value < 0 else ""
    for power, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if size >= 0.9995 * 10**power:
            scaled = size / 10**power
            return f"{sign}{scaled:.3g}{letter}{tail}" if scaled < 999.5 else f"{sign}{scaled:.0f}{letter}{tail}"
    return f"{sign}{size:,.0f}{tail}" if float(size).is_integer() else f"{sign}{size:.3g}{tail}"


def flops(value: float | None, unit: str = "FLOPs") -> str:
    """ "3.22×10¹³ FLOPs": operations in all; with a prefix ("32 TFLOPs") it would be read as a rate."""
    if value is None or not math.isfinite(value):
        return MISSING
    tail = f"\u00a0{unit}" if unit else ""
    if abs(value) < 1e4:
        return f"{_plain(value, 0)}{tail}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}{tail}"


def size(value: float | None) -> str:
    """Bytes in powers of 1024: "1.4 GiB"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for name in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f}\u00a0{name}" if name == "B" else f"{value:.3g}\u00a0{name}"
        value /= 1024
    return f"{value:.3g}\u00a0TiB"


def duration(seconds: float | None) -> str:
    """ "42.1 s", "3 min 05 s", "2 h 07 min", "3 d 04 h"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s" if seconds >= 0.1 else f"{1000 * seconds:.0f}\u00a0ms"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}\u00a0min\u00a0{whole % 60:02d}\u00a0s"
    if whole < 86_400:
        return f"{whole // 3600}\u00a0h\u00a0{whole % 3600 // 60:02d}\u00a0min"
    return f"{whole // 86_400}\u00a0d\u00a0{whole % 86_400 // 3600:02d}\u00a0h"


def amount(value: float | None, unit: str = "") -> str:
    """A quantity in its own unit: bytes, seconds, FLOPs, or a count of something."""
    if unit == "bytes":
        return size(value)
    if unit == "seconds":
        return duration(value)
    if unit == "FLOPs":
        return flops(value)
    if unit == "%":
        return number(value, "%")
    return quantity(value, unit)


# ---------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """`delta` is after − reference; `against` says what the reference was ("before", or the baseline's name)."""

    word: Literal["better", "worse", "no clear change", "changed", "measured"]
    delta: float | None = None
    against: str = ""
    noise: float | None = None  # standard error of the difference, where known


def verdict(figure: Figure) -> Verdict:
    """Compares `after` with `before`, or with the baseline where there is no before.

    A change counts when it exceeds two standard errors of the difference, sqrt(s_before² + s_after²): the formula for
    independent samples, so cautious when both were measured on the same cases. Where no standard error was given every
    change counts.
    """
    reference, against = figure.before, "before"
    if not known(reference):
        reference, against = figure.baseline, figure.baseline_name
    if reference is None or figure.after is None or not (known(reference) and known(figure.after)):
        return Verdict("measured")
    delta = figure.after - reference
    errors = [figure.stderr_after, figure.stderr_before if against == "before" else None]
    given = [e for e in errors if e is not None and math.isfinite(e)]
    noise = math.sqrt(sum(e * e for e in given)) if given else None
    if abs(delta) <= (2 * noise if noise is not None else 1e-9 * max(abs(reference), 1e-9)):
        return Verdict("no clear change", delta, against, noise)
    if figure.higher_is_better is None:
        return Verdict("changed", delta, against, noise)
    return Verdict("better" if (delta > 0) == figure.higher_is_better else "worse", delta, against, noise)
