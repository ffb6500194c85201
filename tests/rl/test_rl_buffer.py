"""Several updates of a generation: each answer as often as asked, in a repeatable order, the same after a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_toys import PAD, tiny_policy

from luopan.errors import ArtifactError
from luopan.model.decoder import Decoder
from luopan.rl.buffer import drop_buffers, read_buffer, write_buffer
from luopan.rl.feed import Collected, OnPolicyFeed, UpdatePlan
from luopan.tokens.batch import Batch, Doc

MakeFeed = Callable[..., OnPolicyFeed]
FIGURES = {"reward": 0.1, "nothing": float("nan")}


def tokens_of(batches: Sequence[Batch]) -> list[tuple[int, ...]]:
    return [
        tuple(batch.input_ids[batch.document_ids == number].tolist())
        for batch in batches
        for number in range(batch.num_documents)
    ]


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    names = ("old_logprobs",)
    return len(one) == len(other) and all(
        torch.equal(a.input_ids, b.input_ids)
        and all(torch.equal(a.per_token[name], b.per_token[name]) for name in names)
        and torch.equal(a.per_document["advantage"], b.per_document["advantage"])
        for a, b in zip(one, other, strict=True)
    )


def test_every_pass_reads_each_answer_once_in_another_order(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, num_iterations=2, steps_per_generation=3)
    whole = tokens_of(make_feed(policy).micro_batches(0))
    steps = [tokens_of(feed.micro_batches(step)) for step in range(6)]
    passes = [steps[0] + steps[1] + steps[2], steps[3] + steps[4] + steps[5]]
    assert all(steps) and Counter(passes[0]) == Counter(passes[1]) == Counter(whole)
    assert passes[0] != passes[1]
    assert tokens_of(feed.micro_batches(6)) != steps[0], "the next generation is another one"


def test_updates_of_a_generation_share_what_was_sampled_though_weights_move_on(make_feed: MakeFeed) -> None:
    model = tiny_policy()
    feed = make_feed(model, num_iterations=2)
    first = feed.micro_batches(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert same(first, feed.micro_batches(1))
    assert not same(first, feed.micro_batches(0)), "the first update samples from the weights there are"


def test_a_process_that_comes_later_goes_on_with_the_same_numbers(
    policy: Decoder, make_feed: MakeFeed, tmp_path: Path
) -> None:
    feed = make_feed(policy, num_iterations=2, steps_per_generation=2, micro_batches=2)
    expected = [feed.micro_batches(step) for step in range(4)]
    later = make_feed(tiny_policy(seed=9), num_iterations=2, steps_per_generation=2, micro_batches=2)
    for step in (1, 3, 2):
        assert same(later.micro_batches(step), expected[step])
    assert later.figures == feed.figures


class Counting:
    """A collector that says which generation it is and what it was handed."""

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        doc = Doc([1, 2 + generation], [-100, 2 + generation], {"x": [0.0, 0.1]}, {"y": 1.0})
        return Collected([[doc]], {"step": float(step)}, {"count": carry.get("count", 0.0) + 1.1})


def test_what_a_generation_hands_on_survives_a_restart(tmp_path: Path) -> None:
    plan = UpdatePlan(max_length=4, pad_id=PAD, seed=0, num_iterations=2)
    one = OnPolicyFeed(Counting(), plan, tmp_path / "rollouts")
    for step in range(4):
        one.micro_batches(step)
    later = OnPolicyFeed(Counting(), plan, tmp_path / "rollouts")
    later.micro_batches(4)
    assert later._held is not None and later._held[1].carry == {"count": 1.1 + 1.1 + 1.1}
    assert later.figures == {"step": 4.0}


def test_a_buffer_is_read_as_it_was_written(tmp_path: Path) -> None:
    exact = np.float32(1) / np.float32(3)
    pair = [
        Doc([1, 2, 3], [-100, 2, 3], {"old_logprobs": [0.0, -0.25, float(exact)]}, {"pair": 7, "is_chosen": True}),
        Doc([1, 4], [-100, 4], {"old_logprobs": [0.0, -1e-8]}, {"pair": 7, "is_chosen": False}),
    ]
    write_buffer(tmp_path, 3, [pair, pair[:1]], FIGURES, {"coef": 0.1})
    found = read_buffer(tmp_path, 3)
    assert found is not None
    units, figures, carry = found
    assert [len(unit) for unit in units] == [2, 1] and carry == {"coef": 0.1}
    assert figures["reward"] == 0.1 and np.isnan(figures["nothing"])
    for ours, theirs in zip([doc for unit in units for doc in unit], [*pair, pair[0]], strict=True):
        assert list(ours.input_ids) == list(theirs.input_ids) and list(ours.labels) == list(theirs.labels)
        np.testing.assert_array_equal(
            np.asarray(ours.per_token["old_logprobs"]), np.asarray(theirs.per_token["old_logprobs"], np.float32)
        )
        assert ours.fields == theirs.fields and isinstance(ours.fields["is_chosen"], bool)
    assert read_buffer(tmp_path, 4) is None


def test_old_buffers_are_dropped_and_damaged_ones_named(tmp_path: Path) -> None:
    doc = Doc([1, 2], [-100, 2])
    for generation in range(4):
        write_buffer(tmp_path, generation, [[doc]], {}, {})
    drop_buffers(tmp_path, before=2)
    assert [read_buffer(tmp_path, generation) is None for generation in range(4)] == [True, True, False, False]
    file = tmp_path / "buffer-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="generation 2 cannot be read"):
        read_buffer(tmp_path, 2)


def test_buffers_that_no_checkpoint_asks_for_are_removed(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, num_iterations=2)
    for step in range(8):
        feed.micro_batches(step)
    (feed.folder.parent / "checkpoints" / "step-000006").mkdir(parents=True)
    feed.micro_batches(8)
    kept = sorted(path.name for path in feed.folder.glob("buffer-*"))
    # Update 6 belongs to generation 3, whose collector is handed what generation 2 left.
    assert kept == ["buffer-000002.safetensors", "buffer-000003.safetensors", "buffer-000004.safetensors"]


def test_one_update_per_generation_needs_no_buffer(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy)
    feed.micro_batches(0)
    assert not list(feed.folder.glob("buffer-*"))
