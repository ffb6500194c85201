"""What the scores of held-out examples say about a classifier: pure functions of scores of bad and good texts."""

from __future__ import annotations

from typing import Any

import numpy as np


def measured(bad: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """What held-out scores [bad], [good] say: area under the ROC curve, precision and recall, calibration, percentiles.

    Precision and calibration are for equally many good and bad texts.
    """
    return {
        "held_out_auc": round(auc(bad, good), 4),
        "held_out_at": [at(bad, good, limit / 10) for limit in range(1, 10)],
        "calibration": reliability(bad, good),
        "bad_percentiles": [round(float(value), 4) for value in np.percentile(bad, np.arange(101))],
        "good_percentiles": [round(float(value), 4) for value in np.percentile(good, np.arange(101))],
    }


def auc(bad: np.ndarray, good: np.ndarray) -> float:
    """How often a good text scores above a bad one, ties counting half."""
    order = np.sort(bad)
    below = np.searchsorted(order, good, "left")
    upto = np.searchsorted(order, good, "right")
    return float((below + upto).sum() / 2 / (len(bad) * len(good)))


def at(bad: np.ndarray, good: np.ndarray, limit: float) -> dict[str, float]:
    """Shares above a limit: of the good (recall), of the bad (false positives), and the precision at equal numbers."""
    hit, false = float((good >= limit).mean()), float((bad >= limit).mean())
    return {
        "score": limit,
        "recall": round(hit, 4),
        "false_positives": round(false, 4),
        "precision": round(hit / (hit + false), 4) if hit + false else 1.0,
    }


def reliability(bad: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """In ten equal ranges of the score: its mean, the share of good texts there, the weight of the range; and the mean
    distance between the two (expected calibration error, Guo et al. 2017, arXiv:1706.04599)."""
    scores = np.concatenate([bad, good])
    label = np.repeat([0.0, 1.0], [len(bad), len(good)])
    weight = np.where(label > 0, 0.5 / len(good), 0.5 / len(bad))
    place = np.minimum((scores * 10).astype(int), 9)
    rows, error = [], 0.0
    for number in range(10):
        inside = place == number
        mass = float(weight[inside].sum())
        if mass:
            mean = float((weight * scores)[inside].sum() / mass)
            share = float((weight * label)[inside].sum() / mass)
            error += mass * abs(mean - share)
            rows.append({"mean_score": round(mean, 4), "good": round(share, 4), "share": round(mass, 4)})
    return {"expected_error": round(error, 4), "ranges": rows}
