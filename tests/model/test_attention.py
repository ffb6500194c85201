"""Layout by hand, and every back-end against the plain mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luopan.model.attention import Layout, attend, choose_backend
from luopan.model.stacks import build_stacks


def _ids(batch: int, length: int, documents: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    begins = torch.zeros(batch, length, dtype=torch.int64)
    for row in range(batch):
        begins[row, torch.randperm(length - 1, generator=generator)[: documents - 1] + 1] = 1
    return begins.cumsum(1) + torch.arange(batch)[:, None] * documents


def test_layout_by_hand() -> None:
    layout = Layout.packed(torch.tensor([[4, 4, 7, 7, 7], [7, 7, 7, -1, -1]]))
    assert layout.position_ids.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]]
    assert layout.starts == (0, 2, 5, 8)
    assert layout.lengths == (2, 3, 3, 2)
    assert layout.offsets.tolist() == [0, 2, 5, 8, 10]
    assert layout.offsets.dtype == torch.int32
    assert layout.document_index.tolist() == [[0, 0, 1, 1, 1], [2, 2, 2, 3, 3]]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert layout.mask()[0, 0].int().tolist() == expected
    assert not layout.is_causal
    assert layout.to("cpu") is layout


def test_one_id_that_comes_back_is_another_document() -> None:
    assert Layout.packed(torch.tensor([[1, 2, 1]])).lengths == (1, 1, 1)


def test_causal_equals_packed_with_one_document_per_row() -> None:
    causal, packed = Layout.causal(3, 5), Layout.packed(torch.tensor([[0] * 5, [1] * 5, [2] * 5]))
    assert causal.is_causal and packed.is_causal
    assert (causal.shape, causal.starts, causal.lengths) == (packed.shape, packed.starts, packed.lengths)
    for name in ("position_ids", "document_index", "offsets"):
        assert torch.equal(getattr(causal, name), getattr(packed, name)), name
    assert torch.equal(causal.mask(), packed.mask())


def test_stacks_put_every_token_back() -> None:
    layout = Layout.packed(_ids(4, 60, 6))
    stacks = build_stacks(layout.starts, layout.lengths)
    tokens = torch.arange(240)
    assert torch.equal(tokens[stacks.take][stacks.give], tokens)
    assert len(stacks.take) == sum(documents * length for documents, length in stacks.shapes)
    assert len(stacks.take) - len(stacks.padding) == 240
    for documents, length in stacks.shapes:
        assert documents >= 1 and length in layout.lengths


@pytest.mark.parametrize("backend", ["stacked", "masked"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("documents", [1, 5, 40])
def test_backends_equal_the_reference(backend: str, kv_heads: int, documents: int) -> None:
    layout = Layout.packed(_ids(3, 160, documents))
    outputs = []
    for function in (_reference, lambda q, k, v: attend(q, k, v, layout, backend)):
        q, k, v = (_rows(3, 160, heads, 16, seed) for seed, heads in enumerate((4, kv_heads, kv_heads)))
        arguments = [x.transpose(1, 2) for x in (q, k, v)]
        out = function(*arguments, layout.mask()) if function is _reference else function(*arguments)
        out.square().sum().backward()
        outputs.append([out, q.grad, k.grad, v.grad])
    for ours, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def _rows(batch: int, length: int, heads: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, heads, size, generator=generator).requires_grad_()


def _reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention by its definition."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_of_a_cache(length: int) -> None:
    q, k, v = torch.randn(2, 4, length, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = torch.rand(2, 1, length, 9) < 0.6
    mask[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, mask), _reference(q, k, v, mask), rtol=1e-4, atol=1e-5)


def test_chooser() -> None:
    query = torch.zeros(2, 4, 8, 16)
    assert choose_backend(query, Layout.causal(2, 8)) == "causal"
    assert choose_backend(query, Layout.packed(_ids(2, 8, 3))) == "stacked"


def test_causal_is_refused_for_packed_rows() -> None:
    query = torch.zeros(2, 4, 8, 16)
    with pytest.raises(AssertionError, match="see each other"):
        attend(query, query, query, Layout.packed(_ids(2, 8, 3)), "causal")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_varlen_equals_the_reference_on_cuda(kv_heads: int) -> None:
    layout = Layout.packed(_ids(3, 160, 5)).to("cuda")
    q, k, v = (
        _rows(3, 160, heads, 32, seed).detach().cuda().bfloat16().transpose(1, 2)
        for seed, heads in enumerate((4, kv_heads, kv_heads))
    )
    assert choose_backend(q, layout) == "varlen"
    expected = _reference(q.float(), k.float(), v.float(), layout.mask())
    torch.testing.assert_close(attend(q, k, v, layout).float(), expected, rtol=2e-2, atol=2e-2)
