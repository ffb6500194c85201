"""Every layout gives the losses and the weights of one process, for every objective."""

from __future__ import annotations

import json
from pathlib import Path

import placement_script
import pytest
import torch
from rank_toys import in_ranks, settings, toy_model

from luopan.errors import TrainingError
from luopan.train.parallel import Replicas, make_mesh, place

SCRIPT = str(Path(__file__).with_name("placement_script.py"))


def compare(folder: Path, layout: str, ranks: int) -> None:
    """What the ranks left in `folder` against the same training in this process."""
    for file in sorted(folder.glob(f"*-{layout}-0.json")):
        task = file.name.split("-")[0]
        weights, losses, placement = placement_script.train(task, layout)
        for rank in range(ranks):
            report = json.loads((folder / f"{task}-{layout}-{rank}.json").read_text())
            assert report["losses"] == pytest.approx(losses, rel=1e-5, abs=1e-6)
            assert report["sharded"] == (layout != "replicas")
            found = torch.load(folder / f"{task}-{layout}-{rank}.pt")
            for name, value in weights.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=f"{task} {layout} {name}")
        measured = json.loads(file.read_text())["measured"]
        assert measured == pytest.approx(placement_script.measure(placement), rel=1e-5)


@pytest.mark.distributed
def test_two_ranks_equal_one_in_every_layout_and_objective(tmp_path: Path) -> None:
    in_ranks([SCRIPT, str(tmp_path), "replicas,full_shard", ",".join(placement_script.TASKS)], ranks=2)
    assert all("different weights" in file.read_text() for file in tmp_path.glob("refused-?.txt"))
    assert len(list(tmp_path.glob("*.pt"))) == 2 * 2 * len(placement_script.TASKS)
    for layout in ("replicas", "full_shard"):
        compare(tmp_path, layout, 2)


@pytest.mark.distributed
def test_two_machines_of_two_ranks_equal_one(tmp_path: Path) -> None:
    in_ranks([SCRIPT, str(tmp_path), "hybrid_shard", "text"], ranks=4, machines=2)
    compare(tmp_path, "hybrid_shard", 4)


def test_one_process_holds_the_whole_model_whatever_is_asked() -> None:
    model = toy_model()
    placement = place(model, settings(parallel="full_shard"), torch.device("cpu"))
    assert isinstance(placement, Replicas) and placement.model is model and not placement.sharded
    assert placement.rounds(3) == 3
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with placement.micro_batch(last=True):
        placement.idle().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    sums = torch.ones(2)
    placement.sum_gradients(sums)
    placement.finish()
    assert sums.tolist() == [1, 1]
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    with placement.whole() as whole:
        assert whole is model


def test_hybrid_shard_needs_to_know_its_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("luopan.train.parallel.world_size", lambda: 4)
    with pytest.raises(TrainingError, match="LOCAL_WORLD_SIZE is not set"):
        make_mesh("hybrid_shard", torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="LOCAL_WORLD_SIZE is 3"):
        make_mesh("hybrid_shard", torch.device("cpu"))
