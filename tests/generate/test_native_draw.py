"""The compiled draw: the tokens that torch's would be, whatever the company, and never one that cannot come."""

from __future__ import annotations

import pytest
import torch

from luopan.generate.native import binding, build
from luopan.generate.sampling import draw_by_torch

pytestmark = pytest.mark.skipif(build.reason() is not None, reason=str(build.reason()))


def logits(rows: int, vocab: int) -> torch.Tensor:
    made = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    made[:, 1::3] = -torch.inf
    return made


@pytest.mark.parametrize("vocab", [2, 15, 64, 65, 130, 2048])
def test_tokens_are_those_of_torch(vocab: int) -> None:
    made, uniform = logits(300, vocab), torch.rand(300, 1, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = binding.draw(made, uniform)
    expected, theirs = draw_by_torch(made, uniform)
    same = tokens == expected
    assert float(same.float().mean()) > 0.99  # sums round otherwise
    torch.testing.assert_close(logprobs[same], theirs[same], rtol=0, atol=5e-6)
    assert bool(made.gather(1, tokens[:, None]).isfinite().all())


def test_each_token_comes_as_often_as_it_should() -> None:
    (row,) = logits(1, 150)
    even = (torch.arange(20_000) + 0.5) / 20_000
    tokens, _ = binding.draw(row.expand(20_000, -1), even[:, None])
    assert bool((tokens.diff() >= 0).all())
    shares = torch.bincount(tokens, minlength=150) / 20_000
    assert float((shares - row.softmax(0)).abs().max()) < 2e-4


def test_a_row_draws_the_same_alone_and_with_others_on_one_thread_and_on_two() -> None:
    made, uniform = logits(40, 700), torch.rand(40, 1, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        tokens, logprobs = binding.draw(made, uniform)
    finally:
        torch.set_num_threads(1)
    for row in range(40):
        one, logprob = binding.draw(made[row : row + 1], uniform[row : row + 1])
        assert int(one) == int(tokens[row]) and float(logprob) == float(logprobs[row])
    torch.set_num_threads(before)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("token", [0, 63, 64, 99])
def test_a_token_that_is_sure_comes_whatever_is_drawn(token: int, uniform: float) -> None:
    made = torch.full((1, 100), -torch.inf)
    made[0, token] = 5.0
    tokens, logprobs = binding.draw(made, torch.tensor([[uniform]]))
    assert int(tokens) == token and float(logprobs) == 0.0


def test_what_is_no_number_is_said() -> None:
    made = logits(2, 40)
    made[0, 3] = torch.nan
    _, logprobs = binding.draw(made, torch.tensor([[0.5], [0.5]]))
    assert bool(logprobs[0].isnan()) and bool(logprobs[1].isfinite())


def test_other_numbers_and_devices_go_another_way() -> None:
    assert binding.draws(logits(1, 4))
    assert not binding.draws(logits(1, 4).double()) and not binding.draws(logits(1, 4).to("meta"))
