"""Shared prompts in the layout, and every back-end with them against separate documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from luopan.model.attention import Layout, attend, choose_backend
from luopan.model.banded import build_bands
from luopan.model.flex import attend_flex
from luopan.model.stacks import build_reuse, reuse_tokens
from luopan.model.varlen import build_varlen_keys


def test_layout_by_hand() -> None:
    # A trunk of four, a branch that continues three of them, one that continues one; then a row without branches.
    layout = Layout.packed(torch.tensor([[0, 0, 0, 0, 1, 1, 2, -1], [3, 3, 3, 4, 4, 4, 4, 4]]), [0, 3, 1, 0, 0])
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 3, 4, 1, 0], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert layout.mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert layout.mask(2)[0, 0, 4:7].int().tolist() == [
        [0, 0, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
    ]
    assert layout.branches is not None
    assert layout.branches.firsts.tolist() == [4, 6]
    assert layout.branches.sources.tolist() == [2, 0]
    assert layout.branches.trunks == (0, 0, 0, 3, 4, 5)
    assert layout.longest == 5  # three shared tokens and two of its own, or the last document
    assert layout.to("meta").branches.prefix.device.type == "meta"  # type: ignore[union-attr]


def test_no_prefix_is_no_branch() -> None:
    ids = torch.tensor([[0, 0, 1, -1]])
    layout = Layout.packed(ids, [0, 0])
    assert layout.branches is None
    assert choose_backend(torch.zeros(1, 2, 4, 8), layout) == "stacked"


@pytest.mark.parametrize(
    ("ids", "prefixes", "message"),
    [
        ([[0, 0, 1, 1]], [0, 3], "of a trunk of 2"),
        ([[0, 0, 1, 1]], [1, 0], "needs a trunk"),
        ([[0, 0], [1, 1]], [0, 1], "needs a trunk"),
        ([[0, 0, 1, -1]], [0, 1, 0], "3 prefixes for 2"),
    ],
)
def test_what_makes_no_sense_is_refused(ids: list[list[int]], prefixes: list[int], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        Layout.packed(torch.tensor(ids), prefixes)


@dataclass
class Case:
    """Rows with branches; and the same documents, each whole and alone: their tokens, flattened."""

    layout: Layout
    whole: list[Tensor]  # places of each document's tokens, shared ones first
    own: list[int]  # how many of them are its own: the last ones


def random_case(seed: int, rows: int = 3, longest: int = 40, most: int = 3) -> Case:
    rng = np.random.default_rng(seed)
    lines: list[list[int]] = []
    prefixes, whole, own = [], [], []
    groups = [[int(rng.integers(0, most + 1)) for _ in range(rng.integers(1, 4))] for _ in range(rows)]
    length = 3 * (most + 1) * longest
    for row, branches in enumerate(groups):
        line: list[int] = []
        for count in branches:
            start = row * length + len(line)
            trunk = int(rng.integers(1, longest + 1))
            for branch in range(count + 1):
                size = trunk if branch == 0 else int(rng.integers(1, longest + 1))
                prefix = 0 if branch == 0 else int(rng.integers(0, trunk)) + 1
                first = row * length + len(line)
                whole.append(torch.cat([torch.arange(start, start + prefix), torch.arange(first, first + size)]))
                own.append(size)
                line += [len(prefixes)] * size
                prefixes.append(prefix)
        lines.append(line + [-1] * (length - len(line)))
    used = max(sum(i >= 0 for i in line) for line in lines) + int(rng.integers(0, 5))
    keep = torch.arange(rows * length).view(rows, length)[:, :used].flatten()
    renumber = torch.full((rows * length,), -1).index_copy_(0, keep, torch.arange(len(keep)))
    layout = Layout.packed(torch.tensor(lines)[:, :used], prefixes)
    return Case(layout, [renumber[places] for places in whole], own)


def separate(case: Case, heads: list[Tensor], **options: object) -> tuple[Tensor, Tensor]:
    """(places, outputs [tokens, H, D]) of every document attended to alone, from q, k, v [B, H, T, D]."""
    flat = [x.transpose(1, 2).flatten(0, 1) for x in heads]  # [B * T, H, D]
    places, outputs = [], []
    for whole, own in zip(case.whole, case.own, strict=True):
        q, k, v = (x[whole][None].transpose(1, 2) for x in flat)
        out = attend(q, k, v, Layout.causal(1, len(whole)), "masked", **options)  # type: ignore[arg-type]
        places.append(whole[-own:])
        outputs.append(out[0].transpose(0, 1)[-own:])
    return torch.cat(places), torch.cat(outputs)


def _heads(layout: Layout, kv_heads: int, seed: int, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = (4, kv_heads, kv_heads)
    return [
        torch.randn(layout.shape[0], n, layout.shape[1], size, generator=generator).requires_grad_() for n in counts
    ]


OPTIONS = [(None, False, None), (1, False, None), (5, False, None), (30, True, None), (None, True, 1.5), (7, True, 1.5)]


def _compare(case: Case, backend: str | None, kv_heads: int, option: tuple[int | None, bool, float | None]) -> None:
    window, sinks, softcap = option
    found = []
    for alone in (True, False):
        heads = _heads(case.layout, kv_heads, 3)
        sink = torch.tensor([0.3, -1.0, 2.0, 0.0]).requires_grad_() if sinks else None
        options = {"window": window, "sinks": sink, "softcap": softcap}
        places, out = separate(case, heads, **options)
        if not alone:
            whole = attend(*heads, case.layout, backend, **options)  # type: ignore[arg-type]
            out = whole.transpose(1, 2).flatten(0, 1)[places]
        (out * torch.linspace(-1, 1, 8)).square().sum().backward()
        leaves = heads if sink is None else [*heads, sink]
        found.append([out, *(x.grad for x in leaves)])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("backend", [None, "masked", "banded"])
def test_backends_equal_separate_documents(
    backend: str | None, kv_heads: int, option: tuple[int | None, bool, float | None]
) -> None:
    _compare(random_case(1), backend, kv_heads, option)


@pytest.mark.parametrize("seed", range(20))
def test_any_layout(seed: int) -> None:
    rng = np.random.default_rng(seed + 100)
    longest = int(rng.choice([3, 20, 90, 150]))
    case = random_case(seed, rows=int(rng.integers(1, 4)), longest=longest, most=int(rng.integers(0, 5)))
    window = int(rng.integers(1, longest + 5)) if rng.random() < 0.6 else None
    _compare(case, None, 2, (window, bool(rng.random() < 0.3), 2.0 if rng.random() < 0.3 else None))


def test_a_prompt_longer_than_the_window_and_a_branch_in_several_pieces() -> None:
    ids = torch.tensor([[0] * 150 + [1] * 300 + [2] * 70])
    whole = [torch.arange(150), torch.cat([torch.arange(120), torch.arange(150, 450)])]
    whole.append(torch.cat([torch.arange(149), torch.arange(450, 520)]))
    case = Case(Layout.packed(ids, [0, 120, 149]), whole, [150, 300, 70])
    for window in (20, 90, 130):
        _compare(case, None, 2, (window, False, None))


def test_the_back_end_is_the_banded_one() -> None:
    layout, query = Layout.packed(torch.tensor([[0, 0, 1, 1]]), [0, 1]), torch.zeros(1, 2, 4, 8)
    assert choose_backend(query, layout) == "banded"
    with pytest.raises(AssertionError, match="no shared prompts"):
        attend(query, query, query, layout, "stacked")


def test_without_branches_nothing_is_gathered_twice() -> None:
    assert build_bands((0, 5), (5, 5), None).keys is None
    layout = Layout.packed(torch.tensor([[0, 0, 0, 1, 1]]), [0, 2])
    keys = layout.bands(None).keys
    assert keys is not None
    assert keys.take.tolist() == [0, 1, 2, 0, 1, 3, 4]
    assert keys.give.tolist() == [0, 1, 2, 5, 6]
    assert [[x.tolist() for x in pair] for pair in keys.again] == [[[0, 1], [3, 4]]]


def test_similar_branches_share_a_call() -> None:
    ids = torch.arange(8).repeat_interleave(40)[None]
    layout = Layout.packed(ids, [0, 38, 0, 36, 0, 40, 0, 10])
    shapes = [(band.pieces, band.length, band.history) for band in layout.bands(None).bands]
    assert shapes == [(4, 40, 0), (3, 40, 40), (1, 40, 10)]


def test_gradients_of_a_reused_token_are_added() -> None:
    take = torch.tensor([0, 0, 1, 2, 0, 1])
    reuse = build_reuse(take, torch.tensor([1, 0, 1, 1, 0, 0]).bool(), torch.tensor([0, 1, 0, 0, 1, 1]).bool())
    assert len(reuse.again) == 2
    outputs = []
    for function in (lambda x: reuse_tokens(x, reuse), lambda x: x.index_select(0, take)):
        tokens = torch.arange(6.0).view(3, 2).requires_grad_()
        out = function(tokens)
        (out * torch.arange(12.0).view(6, 2)).sum().backward()
        outputs.append((out, tokens.grad))
    assert torch.equal(outputs[0][0], outputs[1][0]) and torch.equal(outputs[0][1], outputs[1][1])


def test_keys_of_flash_attention() -> None:
    layout = Layout.packed(torch.tensor([[0, 0, 0, 1, 1, 2], [3, 3, 3, 3, 3, -1]]), [0, 2, 3, 0])
    assert layout.branches is not None
    keys = build_varlen_keys(layout.starts, layout.lengths, layout.branches)
    assert keys.offsets.tolist() == [0, 3, 7, 11, 16, 17]
    assert keys.reuse.take.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert keys.longest == layout.longest == 5
    assert Layout.packed(torch.tensor([[0, 1]])).varlen_keys() is None


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 5])
def test_flex_equals_the_mask_uncompiled(window: int | None) -> None:
    layout = random_case(2, rows=2, longest=8).layout
    heads = [x.detach() for x in _heads(layout, 2, 0, size=16)]
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0])
    ours = attend_flex(*heads, layout.block_mask(window), sinks, 1.5, compiled=False)
    expected = attend(*heads, layout, "masked", window=window, sinks=sinks, softcap=1.5)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (9, None), (None, 1.5), (9, 1.5)])
def test_equal_the_mask_on_cuda(window: int | None, softcap: float | None) -> None:
    layout = random_case(4).layout.to("cuda")
    found = []
    for backend, dtype in ((None, torch.bfloat16), ("masked", torch.float32)):
        heads = [x.detach().bfloat16().to("cuda", dtype).requires_grad_() for x in _heads(layout, 2, 5, size=32)]
        out = attend(*heads, layout, backend, window=window, softcap=softcap)
        real = layout.real if layout.real is not None else torch.ones(layout.shape, dtype=torch.bool, device="cuda")
        (out.float() * real[:, None, :, None]).square().sum().backward()
        found.append([(out * real[:, None, :, None]).float(), *(x.grad.float() for x in heads)])  # type: ignore[union-attr]
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=3e-2, atol=3e-2)
