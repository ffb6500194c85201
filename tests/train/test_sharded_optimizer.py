"""Optimizer, gradient norms and averaged weights over shards (FSDP2, two gloo processes) against the whole tensors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from training_toys import batch, config, tiny_model

from luopan.train.ema import Ema
from luopan.train.losses import causal_lm_loss
from luopan.train.optimizer import Optimizer

GOOD, BAD = torch.zeros(()), torch.ones(())
MUON = {"optim": "muon", "adam_learning_rate": 3e-3}
# Training keys and the model's. Three experts do not divide by two ranks.
CASES: dict[str, tuple[dict, dict]] = {
    "adamw": ({"optim": "adamw"}, {}),
    "muon": (MUON, {}),
    "experts": (MUON, {"num_experts": 3, "num_experts_per_tok": 2}),
}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def work(rank: int, folder: str, case: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{case}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    keys, shape = CASES[case]
    plain, sharded = tiny_model(**shape), tiny_model(**shape)
    for block in sharded.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    settings = config(**keys, adam_epsilon=1e-2)
    ours, reference = (Optimizer(model, settings, "cpu") for model in (sharded, plain))
    averages = [Ema(optimizer.parameters, 0.5) for optimizer in (ours, reference)]
    for step, bad in enumerate([GOOD, GOOD, BAD, GOOD]):
        causal_lm_loss(plain, batch(step)).total.backward()
        for name, parameter in ours.parameters.items():
            parameter.grad = distribute_tensor(reference.parameters[name].grad, mesh, parameter.placements)
        (total, parts), (expected, expected_parts) = ours.gradient_norms(), reference.gradient_norms()
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(parts, expected_parts)
        before = copy.deepcopy([whole(p.detach()) for p in ours.parameters.values()])
        for optimizer, average in zip((ours, reference), averages, strict=True):
            optimizer.step(1.0 / expected, bad)
            optimizer.zero_grad()
            average.update(bad)
        changed = [not torch.equal(old, whole(p)) for old, p in zip(before, ours.parameters.values(), strict=True)]
        assert all(changed) if not bad else not any(changed)
    for name, parameter in reference.parameters.items():
        torch.testing.assert_close(whole(ours.parameters[name]), parameter, rtol=0, atol=1e-6)
        torch.testing.assert_close(whole(averages[0].shadow[name]), averages[1].shadow[name], rtol=0, atol=1e-6)
        for key, tensor in reference.tensors()[name].items():
            torch.testing.assert_close(whole(ours.tensors()[name][key]), tensor, rtol=1e-4, atol=1e-5)
    averages[0].copy_to(ours.parameters)
    assert all(torch.equal(whole(p), whole(averages[0].shadow[name])) for name, p in ours.parameters.items())
    Path(folder, f"{case}-{rank}.done").touch()
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("case", list(CASES))
def test_shards_are_trained_as_the_whole(tmp_path: Path, case: str) -> None:
    mp.spawn(work, args=(str(tmp_path), case), nprocs=2)
    assert len(list(tmp_path.glob(f"{case}-?.done"))) == 2
