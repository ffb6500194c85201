"""The weights that sample are as old as allowed and no older, and the same ones after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rl_toys import tiny_policy

from luopan.errors import ArtifactError
from luopan.model.decoder import Decoder
from luopan.rl.stale import StalePolicy, generations_behind


def at(policy: Decoder, update: int) -> Decoder:
    """The policy as it were after so many updates: every weight is that number."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(float(update))
    return policy


def samples_with(stale: StalePolicy) -> set[float]:
    return {float(value) for parameter in stale.model.parameters() for value in parameter.flatten()[:3]}


def test_a_lag_is_whole_generations() -> None:
    assert [generations_behind(lag, updates=4) for lag in (4, 7, 8)] == [1, 1, 2]


def test_weights_are_at_most_so_many_generations_old(tmp_path: Path) -> None:
    policy, updates = tiny_policy(), 4
    stale = StalePolicy(policy, behind=2, updates=updates, folder=tmp_path / "rollouts")
    ages = []
    for generation in range(7):
        at(policy, generation * updates)
        version = stale.refresh(generation)
        assert samples_with(stale) == {float(version)}
        ages.append(generation * updates - version)
    assert ages == [0, 4, 8, 0, 4, 8, 0]


def test_the_copy_is_no_part_of_the_training(tmp_path: Path) -> None:
    policy = tiny_policy()
    stale = StalePolicy(policy, behind=1, updates=1, folder=tmp_path / "rollouts")
    stale.refresh(0)
    assert not any(parameter.requires_grad for parameter in stale.model.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    before = samples_with(stale)
    at(policy, 9)
    assert samples_with(stale) == before


def test_a_killed_run_goes_on_with_the_same_copy(tmp_path: Path) -> None:
    policy = tiny_policy()
    first = StalePolicy(policy, behind=2, updates=1, folder=tmp_path / "rollouts")
    first.refresh(3)
    whole = [parameter.clone() for parameter in first.model.parameters()]
    resumed = StalePolicy(at(tiny_policy(), 5), behind=2, updates=1, folder=tmp_path / "rollouts")
    assert resumed.refresh(5) == 3
    for old, new in zip(whole, resumed.model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    stale = StalePolicy(tiny_policy(), behind=1, updates=2, folder=tmp_path / "rollouts")
    with pytest.raises(ArtifactError, match="generation 4 was sampled with"):
        stale.refresh(5)
    stale.refresh(4)
    (tmp_path / "rollouts" / "sampler-000004.safetensors").write_bytes(b"x")
    again = StalePolicy(tiny_policy(), behind=1, updates=2, folder=tmp_path / "rollouts")
    with pytest.raises(ArtifactError, match="cannot be read"):
        again.refresh(5)


def test_only_what_a_checkpoint_may_ask_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = StalePolicy(tiny_policy(), behind=1, updates=2, folder=tmp_path / "rollouts")
    monkeypatch.setattr("luopan.rl.stale.steps_saved", lambda folder: [14, 18])
    for generation in (0, 2, 4, 6, 8):
        stale.refresh(generation)
    # A run that goes back to update 14 is in generation 7, which generation 6's weights sample.
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "sampler-000006.safetensors", "sampler-000008.safetensors",
    ]  # fmt: skip
