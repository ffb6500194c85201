"""Layout by hand, and every back-end against the plain mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luopan.model.attention import Layout, attend, choose_backend
from luopan.model.banded import build_bands
from luopan.model.flex import attend_flex
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


def _reference_with(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None, sinks: Tensor | None, softcap: float | None
) -> Tensor:
    """Attention by its definition, as transformers' gpt-oss and Gemma 2 write it, over a mask made by hand."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    place = torch.arange(q.shape[2])
    back = place[:, None] - place
    index = layout.document_index
    visible = (index[:, :, None] == index[:, None]) & (back >= 0) & (back < (window or q.shape[2]))
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    if sinks is None:
        return scores.softmax(-1) @ v
    column = sinks[None, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1] @ v


OPTIONS = [
    (window, sinks, softcap)
    for window in (None, 1, 7, 50)
    for sinks in (False, True)
    for softcap in (None, 1.5)
    if window or sinks or softcap
]


@pytest.mark.parametrize("backend", [None, "masked", "banded"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("documents", [1, 4])
@pytest.mark.parametrize(("window", "sinks", "softcap"), OPTIONS)
def test_options_equal_the_reference(
    backend: str | None, kv_heads: int, documents: int, window: int | None, sinks: bool, softcap: float | None
) -> None:
    layout = Layout.packed(_ids(2, 210, documents))
    names = {"window": window, "softcap": softcap}
    outputs = []
    for reference in (True, False):
        rows = [_rows(2, 210, heads, 8, seed) for seed, heads in enumerate((4, kv_heads, kv_heads))]
        sink = torch.tensor([0.3, -1.0, 2.0, 0.0]).requires_grad_() if sinks else None
        q, k, v = (x.transpose(1, 2) for x in rows)
        if reference:
            out = _reference_with(q, k, v, layout, window, sink, softcap)
        else:
            out = attend(q, k, v, layout, backend, sinks=sink, **names)
        (out * torch.linspace(-1, 1, 8)).square().sum().backward()
        outputs.append([out, *(x.grad for x in (*rows, sink) if x is not None)])
    for ours, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_sinks_by_hand() -> None:
    # Scores 0 over two keys and a sink of ln 2: weights 1/4 and 1/4, the sink takes 1/2.
    q, k = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    v = torch.tensor([[4.0, 0.0], [0.0, 8.0]]).view(1, 1, 2, 2)
    out = attend(q, k, v, Layout.causal(1, 2), sinks=torch.tensor([2.0]).log())
    torch.testing.assert_close(out[0, 0], torch.tensor([[4 / 3, 0.0], [1.0, 2.0]]))


@pytest.mark.parametrize("module", ["gpt_oss", "gemma2"])
def test_options_equal_transformers(module: str) -> None:
    peer = __import__(f"transformers.models.{module}.modeling_{module}", fromlist=["eager_attention_forward"])
    q, k, v = (_rows(2, 20, heads, 8, seed).detach().transpose(1, 2) for seed, heads in enumerate((4, 2, 2)))
    layout, sinks = Layout.causal(2, 20), torch.tensor([0.3, -1.0, 2.0, 0.0])
    own = torch.nn.Module()
    own.num_key_value_groups, own.sinks, own.training, own.head_dim = 2, sinks, False, 8
    added = torch.zeros(2, 1, 20, 20).masked_fill(~layout.mask(6), -torch.inf)
    if module == "gpt_oss":
        theirs, options = peer.eager_attention_forward(own, q, k, v, added, scaling=8**-0.5), {"sinks": sinks}
    else:
        theirs, options = peer.eager_attention_forward(own, q, k, v, added, softcap=0.7), {"softcap": 0.7}
    ours = attend(q, k, v, layout, window=6, **options)
    torch.testing.assert_close(ours.transpose(1, 2), theirs[0], rtol=1e-5, atol=1e-6)
    masked = attend(q, k, v, layout.mask(6), **options)
    torch.testing.assert_close(masked.transpose(1, 2), theirs[0], rtol=1e-5, atol=1e-6)


def test_a_window_does_not_pay_for_the_square() -> None:
    bands = build_bands((0, 3000), (3000, 1000), 64)
    scores = sum(band.pieces * band.length * (band.history + band.length) for band in bands.bands)
    assert scores < 4000 * 2.1 * 64
    tokens = torch.arange(4000)
    assert torch.equal(tokens[bands.take][bands.give], tokens)


def test_a_window_one_short_of_the_document_counts() -> None:
    q, k, v = (_rows(1, 12, 4, 8, seed).detach().transpose(1, 2) for seed in range(3))
    layout = Layout.causal(1, 12)
    expected = _reference_with(q, k, v, layout, 11, None, None)
    torch.testing.assert_close(attend(q, k, v, layout, window=11), expected, rtol=1e-4, atol=1e-5)
    assert (attend(q, k, v, layout, window=12) - expected)[0, :, 11].abs().max() > 1e-3


def test_a_window_as_long_as_the_documents_costs_nothing() -> None:
    layout, query = Layout.packed(_ids(2, 40, 5)), torch.zeros(2, 4, 40, 8)
    attend(query, query, query, layout, window=layout.longest)
    assert "stacks" in layout._made and not any("bands" in str(key) for key in layout._made)
    with pytest.raises(AssertionError, match="knows no windows"):
        attend(query, query, query, layout, "stacked", window=2)
    with pytest.raises(AssertionError, match="neither sinks"):
        attend(query, query, query, layout, "stacked", softcap=2.0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("window", "sinks", "softcap"), [(None, True, None), (5, True, 1.5), (5, False, 1.5)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flex_equals_the_reference_uncompiled(
    window: int | None, sinks: bool, softcap: float | None, kv_heads: int
) -> None:
    layout = Layout.packed(_ids(2, 40, 4))
    q, k, v = (
        _rows(2, 40, heads, 16, seed).detach().transpose(1, 2) for seed, heads in enumerate((4, kv_heads, kv_heads))
    )
    sink = torch.tensor([0.3, -1.0, 2.0, 0.0]) if sinks else None
    ours = attend_flex(q, k, v, layout.block_mask(window), sink, softcap, compiled=False)
    expected = _reference_with(q, k, v, layout, window, sink, softcap)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_layout_knows_what_is_real() -> None:
    layout = Layout.packed(torch.tensor([[0, 0, 1], [2, -1, -1]]))
    assert layout.real is not None
    assert layout.real.tolist() == [[True, True, True], [True, False, False]]
    assert Layout.packed(torch.tensor([[0, 0, 1]])).real is None
    assert Layout.causal(1, 3).real is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("window", "sinks", "softcap"), [(9, False, None), (None, True, None), (9, True, 1.5)])
def test_options_equal_the_reference_on_cuda(window: int | None, sinks: bool, softcap: float | None) -> None:
    layout = Layout.packed(_ids(3, 160, 5)).to("cuda")
    q, k, v = (
        _rows(3, 160, h, 32, seed).detach().cuda().bfloat16().transpose(1, 2) for seed, h in enumerate((4, 2, 2))
    )
    sink = torch.tensor([0.3, -1.0, 2.0, 0.0], device="cuda") if sinks else None
    expected = attend(q.float(), k.float(), v.float(), layout, "masked", window=window, sinks=sink, softcap=softcap)
    ours = attend(q, k, v, layout, window=window, sinks=sink, softcap=softcap)
    torch.testing.assert_close(ours.float(), expected, rtol=2e-2, atol=2e-2)
