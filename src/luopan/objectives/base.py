"""What every loss returns: a sum and the count it is over, and its metrics in the same form."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

Metric = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LossTerm:
    """`total` / `weight` is the loss, but only the training loop divides, over the whole step.

    total: scalar with gradient, a sum. weight: scalar, the count the sum is over (tokens, pairs, sequences).
    metrics: name -> (sum, count), detached scalars; divided in the same way when they are logged. A name that ends in
    "_max" is a maximum: its pair is (maximum, 1) and is merged by `merge_metrics` by taking the larger one.
    """

    total: Tensor
    weight: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)


def mean_metric(values: Tensor) -> Metric:
    """(sum, count) of the elements of `values`, detached, fp32."""
    values = values.detach().float()
    return values.sum(), values.new_tensor(float(values.numel()))


def merge_metrics(parts: list[dict[str, Metric]]) -> dict[str, Metric]:
    """Metrics of several micro-batches as if it had been one: sums and counts add up, maxima are compared."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, (value, count) in part.items():
            if name not in merged:
                merged[name] = (value, count)
            elif name.endswith("_max"):
                merged[name] = (merged[name][0].maximum(value), count)
            else:
                merged[name] = (merged[name][0] + value, merged[name][1] + count)
    return merged
