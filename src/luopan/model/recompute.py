"""Activation recompute: what a block keeps for its backward pass, traded for computing it again.

"full" keeps a block's input alone and computes the whole block twice. "selective" keeps what matrix products and
fused attention put out, and computes norms, activations, rotations and gathers again. Scores of soft-capped attention
or with sinks (`scored.py`) are batched products over T^2 numbers: computed again, not kept. Gradients are the same to
the bit in eager mode (tested). Dropout of adapters is the one thing in a block that draws random numbers; they are
replayed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")

# Operations whose outputs "selective" keeps; a name that this torch does not have is left out.
_KEPT = (
    "aten.mm",
    "aten.addmm",
    "aten._grouped_mm",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "mkldnn._linear_pointwise",
    "torch_attn._varlen_attn",
)


@functools.cache
def _kept_operations() -> list[Any]:
    import contextlib

    kept: list[Any] = []
    for name in _KEPT:
        space, operation = name.split(".")
        with contextlib.suppress(AttributeError, RuntimeError):
            kept.append(getattr(getattr(torch.ops, space), operation).default)
    kept.append(torch.ops.higher_order.flex_attention)
    return kept


def with_recompute(function: Callable[..., Any], mode: Recompute) -> Callable[..., Any]:
    """A function that does the same and keeps for its backward pass what `mode` says."""
    if mode == "none":
        return function
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": True}
    if mode == "selective":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _kept_operations())

    def run(*arguments: Any) -> Any:
        return checkpoint(function, *arguments, **options)

    return run
