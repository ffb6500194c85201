"""One update: micro-batches in, weights changed; everything the optimizer side of a training holds.

The loss is a sum over a global count: gradients of all micro-batches and ranks add up and are divided once. Whether
the update is made at all is decided on the device (`SpikeGuard`), so that nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm, Metric, merge_metrics
from luopan.tokens.batch import Batch
from luopan.train.config import TrainConfig
from luopan.train.device import autocast
from luopan.train.ema import Ema
from luopan.train.health import gradients_reach_all
from luopan.train.noise_scale import NoiseScale
from luopan.train.optimizer import Optimizer, gradient_norms, gradient_scale
from luopan.train.parallel import Placement
from luopan.train.ranks import sum_over_ranks, world_size
from luopan.train.schedule import learning_rate_at
from luopan.train.spikes import SpikeGuard

LossFn = Callable[[Decoder, Batch], LossTerm]


@dataclass(frozen=True)
class Update:
    """What an update was: still on the device."""

    bad: Tensor  # 1 where it was left out
    norm: Tensor  # of the mean loss's gradient, before clipping
    metrics: dict[str, Metric]


class Stepper:
    """Makes updates to `placement.model`; its state goes into checkpoints by `tensors` and `state`."""

    def __init__(self, placement: Placement, loss_fn: LossFn, config: TrainConfig, device: torch.device) -> None:
        self.placement, self.loss_fn, self.config, self.device = placement, loss_fn, config, device
        model = placement.model
        if model.recompute != config.activation_recompute:
            model.recompute = config.activation_recompute
        if config.compile:
            model.compile_blocks()
        self.optimizer = Optimizer(model, config, device)
        self.guard = SpikeGuard(config, device)
        self.ema = Ema(self.optimizer.parameters, config.ema_decay) if config.ema_decay is not None else None
        self.probe = NoiseScale(device) if config.critical_batch_probe else None
        if self.probe is not None and placement.sharded:
            raise RecipeError(
                "critical_batch_probe reads the gradient of one micro-batch, which shards do not have",
                hint="Use parallel: replicas while probing, or leave the probe out.",
            )
        self.gradients_checked = not config.check_gradients

    # ---- one update ----

    def update(self, step: int, batches: Sequence[Batch], *, idle: bool = False) -> Update:
        """Update `step` (0 is the first) from this rank's micro-batches of it; an idle one changes nothing: without a
        gradient, momentum and weight decay would still move the weights."""
        self.placement.model.train()  # a feed that generates may leave it in evaluation mode
        sums = torch.zeros(2, device=self.device)  # loss and weight
        metrics = []
        small = torch.zeros(3, device=self.device)
        rounds = self.placement.rounds(len(batches))
        for number in range(rounds):
            with self.placement.micro_batch(last=number == rounds - 1):
                if number >= len(batches):
                    self.placement.idle().backward()
                    continue
                term = self.backward(batches[number])
                sums += torch.stack((term.total, term.weight.to(term.total)))
                metrics.append(term.metrics)
            if self.probe is not None and number == 0:
                small = self.small_batch(term)
        self.placement.sum_gradients(sums)
        if self.probe is not None:
            sum_over_ranks([small])
        return self.apply(step, sums, merge_metrics(metrics), small, idle=idle)

    def backward(self, batch: Batch) -> LossTerm:
        """Forward and backward of one micro-batch; returns its term without the graph."""
        with autocast(self.device, self.config.precision):
            term = self.placement.loss(self.loss_fn, batch.to(self.device))
        term.total.backward()
        return LossTerm(term.total.detach(), term.weight.detach(), term.metrics)

    def apply(
        self, step: int, sums: Tensor, metrics: dict[str, Metric], small: Tensor, *, idle: bool = False
    ) -> Update:
        """The gradients are the step's sums: judge, clip, update."""
        if not self.gradients_checked:
            self.gradients_checked = gradients_reach_all(self.optimizer.parameters, step)
        total, weight = sums[0], sums[1]
        norm, group_norms = self.optimizer.gradient_norms()
        norm = norm / weight
        bad = self.guard.judge(total / weight, norm, weight)
        left_out = torch.ones_like(bad) if idle else bad
        if self.probe is not None:
            self.probe.add(small[0] / small[2], norm.square(), small[1] / small[2], weight)
        self.optimizer.set_learning_rate(learning_rate_at(self.config, step))
        self.optimizer.step(gradient_scale(norm, weight, self.config.max_grad_norm), left_out)
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(left_out)
        one = torch.ones_like(weight)
        metrics = {"loss": (total, weight), **metrics}
        metrics |= {f"grad_norm/{name}": (value / weight, one) for name, value in group_norms.items()}
        reduce = (lambda counts: sum_over_ranks([counts])) if world_size() > 1 else None
        model = self.placement.model
        model.forget_counts(left_out)
        figures = model.finish_step(reduce)
        metrics |= {name: (value, one) for name, value in figures.items()}
        return Update(bad, norm, metrics)

    def small_batch(self, term: LossTerm) -> Tensor:
        """Of the first micro-batch: squared gradient norm, weight, and 1 to count it by, for the noise scale."""
        norm, _ = gradient_norms(self.optimizer.groups, self.optimizer.gradients())
        weight = term.weight.to(norm)
        return torch.stack(((norm / weight).square(), weight, torch.ones_like(norm)))

    # ---- what it holds ----

    def tensors(self) -> dict[str, Any]:
        """Everything of it that is a tensor; the live ones, so that loading into them restores the training.

        Frozen weights (below an adapter) are no state: whoever goes on has them from where they came.
        """
        frozen = {name for name, p in self.placement.model.named_parameters() if not p.requires_grad}
        model = {name: tensor for name, tensor in self.placement.model.state_dict().items() if name not in frozen}
        held = {"model": model, "optimizer": self.optimizer.tensors()}
        return held if self.ema is None else {**held, "ema": self.ema.tensors()}

    def state(self) -> dict[str, Any]:
        """The rest, as JSON."""
        return {
            "gradients_checked": self.gradients_checked,
            "guard": self.guard.state(),
            "probe": self.probe.state() if self.probe is not None else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint's JSON; the tensors were loaded into `tensors()`."""
        self.gradients_checked = state["gradients_checked"] or not self.config.check_gradients
        self.guard.restore(state["guard"])
        if self.probe is not None and state["probe"] is not None:
            self.probe.restore(state["probe"])

    def figures(self) -> dict[str, float]:
        """What it knows beside the metrics of each step; reads from the device."""
        return {"critical_batch_tokens": self.probe.value()} if self.probe is not None else {}

    def finish(self) -> None:
        """Training is over: the average becomes the model, if one was kept, and the model goes back to its owner."""
        if self.ema is not None:
            self.ema.copy_to(self.optimizer.parameters)
        self.placement.finish()
