"""What each process of test_distributed_placement.py runs: a small loop over every layout and objective."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rank_toys import answer_rows, pair_rows, settings, text_rows, toy_model

from luopan.errors import TrainingError
from luopan.train.losses import causal_lm_loss, policy_loss, preference_loss
from luopan.train.parallel import Placement, place
from luopan.train.ranks import processes, rank, world_size
from luopan.train.shares import micro_batch_rows

STEPS = 3
# 5 rows in micro-batches of 1: on 2 or 4 ranks some have one micro-batch more than others.
TASKS: dict[str, Any] = {
    "text": (text_rows, causal_lm_loss, {}),
    "untied": (text_rows, causal_lm_loss, {"tie_word_embeddings": False, "qk_norm": True}),
    "z_loss": (text_rows, partial(causal_lm_loss, z_loss_coef=1e-2), {}),
    "experts": (
        text_rows,
        causal_lm_loss,
        {"num_experts": 3, "num_experts_per_tok": 2, "router_z_loss_coef": 1e-2},
    ),
    "recompute": (text_rows, causal_lm_loss, {}),
    "pairs": (pair_rows, partial(preference_loss, beta=0.1), {}),
    "answers": (answer_rows, partial(policy_loss, epsilon=0.2), {}),
}


def train(task: str, parallel: str) -> tuple[dict[str, torch.Tensor], list[float], Placement]:
    """The weights after a few steps, and the losses."""
    rows, loss_fn, changes = TASKS[task]
    config = settings(parallel=parallel, per_device_train_batch_size=1, gradient_accumulation_steps=5)
    model = toy_model(**changes)
    placement = place(model, config, torch.device("cpu"))
    placement.model.recompute = "full" if task == "recompute" else "none"
    parameters = list(placement.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3, fused=True)
    losses = []
    for step in range(STEPS):
        batches = [rows(numbers) for numbers in micro_batch_rows(config, step, rank(), world_size())]
        sums = torch.zeros(2)
        rounds = placement.rounds(len(batches))
        for n in range(rounds):
            with placement.micro_batch(last=n == rounds - 1):
                if n < len(batches):
                    term = placement.loss(loss_fn, batches[n])
                    term.total.backward()
                    sums += torch.stack([term.total.detach(), term.weight.float()])
                else:
                    placement.idle().backward()
        placement.sum_gradients(sums)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        scale = (1 / sums[1]) * torch.clamp(1.0 / (norm / sums[1] + 1e-6), max=1.0)
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        # The second update is left out, as a bad step is.
        optimizer.found_inf = torch.tensor(float(step == 1))  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(sums[0] / sums[1]))
    whole = placement.full_state_dict()
    assert bool(whole) == (rank() == 0)
    placement.finish()
    finished = {name: value.detach().clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, finished[name]) for name, value in whole.items())
    return finished, losses, placement


def refused() -> str:
    """What is said where the ranks bring different models to be cut up."""
    try:
        place(toy_model(seed=rank()), settings(parallel="full_shard"), torch.device("cpu"))
    except TrainingError as error:
        return error.message
    return ""


def measure(placement: Placement) -> float | None:
    """A loss on the whole model, by rank 0."""
    with placement.whole() as whole, torch.no_grad():
        return float(causal_lm_loss(whole, text_rows([7])).total) if rank() == 0 else None


def main(folder: Path, layouts: str, tasks: str) -> None:
    torch.set_num_threads(1)
    with processes():
        (folder / f"refused-{rank()}.txt").write_text(refused())
        for layout in layouts.split(","):
            for task in tasks.split(","):
                weights, losses, placement = train(task, layout)
                measured = measure(placement)
                torch.save(weights, folder / f"{task}-{layout}-{rank()}.pt")
                report = {"losses": losses, "sharded": placement.sharded, "measured": measured}
                (folder / f"{task}-{layout}-{rank()}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
