"""Packing for learning from rollouts: one prompt before all its answers, no padding, and the loss and gradients of
documents that stand alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rl_toys import PAD, tiny_policy

from luopan.errors import DataError
from luopan.model.decoder import Decoder
from luopan.rl.buffer import Unit
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.packing import lay_out, pack_units
from luopan.tokens.batch import Batch, Doc
from luopan.tokens.merged import prompt_of
from luopan.train.losses import policy_loss

MakeFeed = Callable[..., OnPolicyFeed]


def doc(prompt: list[int], answer: list[int], advantage: float = 1.0) -> Doc:
    return Doc(
        input_ids=[*prompt, *answer],
        labels=[-100] * len(prompt) + answer,
        per_token={"old_logprobs": [0.0] * len(prompt) + [-0.1 * token for token in answer]},
        fields={"advantage": advantage},
    )


def answers(prompt: list[int], *lengths: int) -> list[Unit]:
    """Units of one document with answers of these lengths."""
    return [[doc(prompt, [7 + number] * length, number - 1.5)] for number, length in enumerate(lengths)]


def gradients(model: Decoder, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, float]:
    model.zero_grad()
    term = policy_loss(model, batch, temperature=0.7, loss_type="grpo")
    term.total.backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return term.total.detach(), flat, float(term.weight)


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("share_prompts", [False, True])
def test_loss_and_gradients_are_those_of_documents_alone(one_row: bool, share_prompts: bool) -> None:
    units = [*answers([2, 3, 4, 5], 3, 1, 6, 2), *answers([2, 9, 4], 5, 5, 2), *answers([2, 3, 4, 5], 4)]
    alone = [lay_out([list(unit)], PAD, share_prompts=False, one_row=False) for unit in units]
    model = tiny_policy()
    parts = [gradients(model, batch) for batch in alone]
    rows = pack_units(units, 24, share_prompts=share_prompts)
    total, gradient, weight = gradients(model, lay_out(rows, PAD, share_prompts=share_prompts, one_row=one_row))
    assert weight == sum(part[2] for part in parts) == 8
    torch.testing.assert_close(total, torch.stack([part[0] for part in parts]).sum())
    torch.testing.assert_close(gradient, torch.stack([part[1] for part in parts]).sum(0), rtol=1e-4, atol=1e-6)


def test_what_answers_have_in_common_stands_once_and_little_is_padded() -> None:
    units = [*answers([2, 3, 4, 5], 3, 1, 6, 2), *answers([2, 9, 4], 5, 5, 2), *answers([2, 9, 4], 5)]
    rows = pack_units(units, 24, share_prompts=True)
    batch = lay_out(rows, PAD, share_prompts=True, one_row=True)
    assert batch.num_tokens == 4 + 12 + 3 + 12 and batch.num_targets == 12 + 17  # two answers are equal
    assert batch.input_ids.shape == (1, 64)  # the next multiple of 64
    assert batch.num_documents == 8
    rows_alone = lay_out(rows, PAD, share_prompts=True, one_row=False)
    assert rows_alone.num_tokens == 4 + 12 + 3 + 17 and rows_alone.num_targets == 12 + 17
    bare = lay_out(pack_units(units, 24, share_prompts=False), PAD, share_prompts=False, one_row=True)
    assert bare.input_ids.shape == (1, 64) and bare.num_tokens == 4 * 4 + 12 + 4 * 3 + 17


def test_rows_are_as_long_as_the_fullest() -> None:
    rows = pack_units(answers([2, 3], 9, 8, 5), 100, share_prompts=False)
    batch = lay_out([*rows[:1], rows[0][:1]], PAD, share_prompts=False, one_row=False)
    assert batch.input_ids.shape == (2, 6 + 22)


def test_answers_that_do_not_fit_one_row_are_cut_into_rows_that_each_have_the_prompt() -> None:
    units = answers([2, 3, 4, 5], *range(1, 9))  # 4 + 36 tokens
    rows = pack_units(units, 16, share_prompts=True)
    batch = lay_out(rows, PAD, share_prompts=True, one_row=False)
    assert batch.input_ids.shape[0] == len(rows) == 4 and batch.input_ids.shape[1] <= 16
    assert batch.num_tokens == 4 * 4 + 36 and batch.num_targets == 36
    told = [list(map(int, one.input_ids)) for row in rows for one in row]
    assert sorted(told) == sorted(list(unit[0].input_ids) for unit in units)


def test_units_stay_together_and_answers_to_one_prompt_side_by_side() -> None:
    pair = [doc([2, 3, 4], [5, 6]), doc([2, 3, 4], [8])]
    mixed = [doc([2, 3], [5, 6]), doc([2, 4], [5, 6])]
    rows = pack_units([pair, mixed, [doc([2, 3, 4], [9, 9])]], 9, share_prompts=True)
    told = sorted([[list(one.input_ids) for one in row] for row in rows])
    assert told == [[[2, 3, 4, 5, 6], [2, 3, 4, 8], [2, 3, 4, 9, 9]], [[2, 3, 5, 6], [2, 4, 5, 6]]]


def test_documents_from_a_buffer_are_packed_alike() -> None:
    units = answers([2, 3, 4, 5], 3, 1, 6)
    arrays = [
        [Doc(np.array(d.input_ids), np.array(d.labels), {k: np.array(v) for k, v in d.per_token.items()}, d.fields)]
        for (d,) in units
    ]
    assert prompt_of(units[0][0]) == prompt_of(arrays[0][0])
    one, other = (
        lay_out(pack_units(each, 24, share_prompts=True), PAD, share_prompts=True, one_row=True)
        for each in (units, arrays)
    )
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.per_token["old_logprobs"], other.per_token["old_logprobs"])


def test_a_unit_that_is_longer_than_a_row_is_refused() -> None:
    with pytest.raises(DataError, match="does not fit"):
        pack_units(answers([2, 3], 2, 20), 12, share_prompts=True)


def test_a_feed_shares_prompts_where_its_plan_says_so(policy: Decoder, make_feed: MakeFeed) -> None:
    bare, shared = make_feed(policy), make_feed(policy, share_prompts=True, one_row=True)
    (one,), (other,) = bare.micro_batches(2), shared.micro_batches(2)
    assert other.num_targets == one.num_targets and other.num_tokens < one.num_tokens
    assert other.input_ids.shape[0] == 1 and 0 <= other.input_ids.shape[1] - other.num_tokens < 64
    for before, after in zip(gradients(policy, one), gradients(policy, other), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
