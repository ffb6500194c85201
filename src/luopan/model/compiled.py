"""Compiling parts of a block so that a training run compiles a few graphs and not one per layer, batch or document.

A part is a plain function of a block and tensors: its weights become inputs of the graph, so that all blocks that look
alike share one. Document lengths never enter a part (attention stays outside), so a new batch of the same shape runs
the same graph; another shape compiles once more, with its sizes left open.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from luopan.model.recompute import Recompute, with_recompute

Part = Callable[..., Any]


class CompiledParts:
    """The compiled forms of one model's parts, made when they are first asked for. Copies of a model share them."""

    def __init__(self) -> None:
        self._made: dict[tuple[Part, Recompute, bool, object], Part] = {}

    def get(self, part: Part, mode: Recompute, kind: object) -> Part:
        """`part` compiled, recomputing as `mode` says. Blocks of another `kind` get a graph of their own.

        torch gives up after 8 compilations of the same code. So that these are left for shapes and precisions, kinds
        of block, and training and evaluation, are told apart here, each with code of its own.
        """
        key = (part, mode, torch.is_grad_enabled(), kind)
        if key not in self._made:
            self._made[key] = torch.compile(_with_own_code(with_recompute(part, mode)))
        return self._made[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledParts:
        return self


def _with_own_code(function: Any) -> Part:
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, None, function.__defaults__, function.__closure__)
