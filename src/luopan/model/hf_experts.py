"""Expert weights between our 3-D parameters and the tensors of Hugging Face files.

Ours are `mlp.experts.{gate,up,down}_proj`, [E, out, in]. Files hold one matrix per expert: Qwen3-MoE as
`mlp.experts.3.gate_proj.weight`, Mixtral as `block_sparse_moe.experts.3.w1.weight` (w1 gate, w3 up, w2 down).
transformers 5 joins gate and up into one `gate_up_proj` [E, 2 inner, hidden] in memory and takes them apart again on
saving; both forms are read, the one on disk is written. Tensor names here carry the leading `model.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from luopan.errors import ModelError

_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_OF_MIXTRAL = {short: part for part, short in _MIXTRAL.items()}
_ONE_EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_OURS = re.compile(r"(model\.layers\.\d+)\.mlp\.experts\.(gate_proj|up_proj|down_proj)")


def split_experts(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Our names to those of the files of `model_type`; the matrices are views."""
    mixtral = model_type == "mixtral"
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _OURS.fullmatch(name)
        if found is None:
            out[name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if mixtral else name] = tensor
            continue
        layer, part = found.groups()
        for index, matrix in enumerate(tensor.unbind(0)):
            inside = f"block_sparse_moe.experts.{index}.{_MIXTRAL[part]}" if mixtral else f"mlp.experts.{index}.{part}"
            out[f"{layer}.{inside}.weight"] = matrix
    return out


def join_experts(tensors: Mapping[str, Tensor], count: int, where: object | None = None) -> dict[str, Tensor]:
    """The names of any of those files to ours; ModelError for an expert that is missing or of another shape."""
    out: dict[str, Tensor] = {}
    single: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for original, tensor in tensors.items():
        name = original.replace(".block_sparse_moe.", ".mlp.")
        if found := _ONE_EXPERT.fullmatch(name):
            experts, index, part = found.groups()
            part = _OF_MIXTRAL.get(part, part)
            if int(index) >= count:
                raise ModelError(f"{original} is of an expert beyond num_experts {count}", where=where)
            single.setdefault(f"{experts}.{part}", {})[int(index)] = (original, tensor)
        elif name.endswith(".mlp.experts.gate_up_proj") and tensor.ndim == 3:
            stem = name.removesuffix("gate_up_proj")
            out[f"{stem}gate_proj"], out[f"{stem}up_proj"] = tensor.chunk(2, 1)
        else:
            out[name] = tensor
    for name, matrices in single.items():
        out[name] = _stack(name, matrices, count, where)
    return out


def _stack(name: str, matrices: Mapping[int, tuple[str, Tensor]], count: int, where: object | None) -> Tensor:
    present, (some, first) = sorted(matrices), next(iter(matrices.values()))
    for index in range(count):
        if index not in matrices:
            raise ModelError(
                f"{name}: expert {index} of {count} is missing (there are {len(present)}, such as {some})", where=where
            )
        original, matrix = matrices[index]
        if matrix.shape != first.shape:
            raise ModelError(f"{original} is {list(matrix.shape)}, {some} is {list(first.shape)}", where=where)
    return torch.stack([matrices[index][1] for index in range(count)])
