"""Layouts of a training over devices: data × sharded × tensor × context parallel × accumulation, counted and ranked.

    step = max(products / (devices · peak · MFU), sharding's traffic) + tensor and context traffic + gradients' traffic

Products and the gathering of sharded weights overlap; what tensor and context parallelism send lies in the middle of a
layer and does not. Bytes sent per device and step (Shoeybi et al. 2019, arXiv:1909.08053; Rajbhandari et al. 2020,
arXiv:1910.02054):

    sharding over s        3 · 2 P/t · (s - 1)/s a micro-batch   weights gathered twice, gradients scattered, bf16
    tensor over t          4 L · 2 · 2 b·h · (t - 1)/t           four all-reduces a layer of b tokens in bf16
    context over c         2 L · 2 · 2 b·kv · (c - 1)            keys and values go round, there and back
    replicas r             2 · 4 P/(t s) · (r - 1)/r a step      gradients, fp32

Memory is counted as in `luopan.train.memory`, with weights, gradients and optimizer state over t·s, and of the
activations the parts inside attention and MLP over t and all over c. Limits: luopan itself trains replicas and shards
(FSDP2); tensor and context parallel layouts are for comparison with systems that have them. Pipelines are left out.
Nothing was measured on such machines: ranks are worth more than seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from luopan.lab.planning.devices import Device
from luopan.model.config import ModelConfig

USABLE = 0.92  # of a device's memory: the rest goes to the runtime and to gaps between blocks
FP32, BF16 = 4, 2
STATE_BYTES = 18  # a parameter: fp32 weights, gradients and two moments, and the bf16 form of the weights


@dataclass(frozen=True)
class Layout:
    """`replicas` · `shards` · `tensor` · `context` devices; a micro-batch of `micro` rows, `accumulation` of them."""

    replicas: int
    shards: int
    tensor: int
    context: int
    micro: int
    accumulation: int

    @property
    def devices(self) -> int:
        return self.replicas * self.shards * self.tensor * self.context

    @property
    def ours(self) -> bool:
        """Whether luopan can train it."""
        return self.tensor == self.context == 1

    def text(self) -> str:
        return (
            f"{self.replicas} replicas × {self.shards} shards × TP {self.tensor} × CP {self.context}, "
            f"{self.micro} rows × {self.accumulation}"
        )


@dataclass(frozen=True)
class Split:
    """Bytes on one device at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


@dataclass(frozen=True)
class Ranked:
    """A layout with its memory and the seconds that a step is expected to take."""

    layout: Layout
    memory: Split
    seconds: float
    exposed: float  # of them, sending that nothing hides
    mfu: float


def split_memory(model: ModelConfig, layout: Layout, length: int, *, recompute: bool = False, held_logits: bool = False
                 ) -> Split:  # fmt: skip
    """Memory of one device in mixed precision with AdamW.

    `held_logits`: for systems that hold all logits of a micro-batch (bf16, fp32 and their gradient); luopan's head
    works in pieces.
    """
    parts = layout.tensor * layout.shards
    number = model.num_parameters()
    tokens = layout.micro * length // layout.context
    hidden = model.hidden_size
    inside = (
        3 * model.num_attention_heads * model.head_size
        + 2 * model.kv_heads * model.head_size
        + 4 * _inner(model)
    )  # fmt: skip
    outside = 2 * FP32 * hidden + BF16 * 2 * hidden  # the residual stream in fp32, both norms' outputs
    block = outside + BF16 * inside // layout.tensor
    kept = (FP32 * hidden * model.num_hidden_layers + block) if recompute else block * model.num_hidden_layers
    vocab = model.vocab_size // layout.tensor
    rows = tokens if held_logits else min(tokens, 8192)
    head = rows * vocab * (BF16 + FP32 + FP32 if held_logits else FP32)
    # Of a sharded model the bf16 weights of the block at hand are whole; two of them, as the next is fetched ahead.
    whole = 0 if layout.shards == 1 else 2 * BF16 * number // (model.num_hidden_layers * layout.tensor)
    return Split(
        weights=(FP32 + BF16) * number // parts + whole,
        gradients=FP32 * number // parts,
        optimizer=2 * FP32 * number // parts,
        activations=kept * tokens + 4 * BF16 * hidden * tokens,
        head=head,
    )


def _inner(model: ModelConfig) -> int:
    """Inner width that a token passes through, the widest layer's."""
    if not any(model.moe_layers):
        return model.intermediate_size
    assert model.num_experts_per_tok is not None
    return model.num_experts_per_tok * model.expert_size + (model.shared_expert_intermediate_size or 0)


def enumerate_layouts(
    model: ModelConfig, device: Device, devices: int, *, rows: int, length: int
) -> Iterator[Layout]:  # fmt: skip
    """All layouts of `devices` devices with `rows` rows of `length` tokens a step.

    Tensor parallelism stays within a server and divides heads; context parallelism divides the row.
    """
    for tensor in _powers(min(device.per_node, devices)):
        if model.num_attention_heads % tensor or model.kv_heads % tensor:
            continue
        for context in _powers(devices // tensor):
            if length % context or (length // context < 1024 and context > 1):
                continue
            data, rest = divmod(devices, tensor * context)
            if rest or rows % data:
                continue
            for shards in _divisors(data):
                for micro in _divisors(rows // data):
                    yield Layout(data // shards, shards, tensor, context, micro, rows // data // micro)


def rank_layouts(
    model: ModelConfig,
    device: Device,
    devices: int,
    *,
    rows: int,
    length: int,
    mfu: float,
    recompute: bool = False,
    ours: bool = True,
) -> tuple[list[Ranked], int, int]:
    """(layouts that fit, the fastest first; how many were looked at; how many do not fit into memory)."""
    found, looked, full = [], 0, 0
    for layout in enumerate_layouts(model, device, devices, rows=rows, length=length):
        if ours and not layout.ours:
            continue
        looked += 1
        memory = split_memory(model, layout, length, recompute=recompute)
        if memory.total > USABLE * device.memory_bytes:
            full += 1
            continue
        found.append(_timed(model, device, layout, memory, rows=rows, length=length, mfu=mfu, recompute=recompute))
    # Of equals the larger micro-batch: fewer and longer kernels.
    found.sort(key=lambda one: (float(f"{one.seconds:.3g}"), one.layout.tensor, one.layout.context, -one.layout.micro))
    return found, looked, full


def _timed(
    model: ModelConfig,
    device: Device,
    layout: Layout,
    memory: Split,
    *,
    rows: int,
    length: int,
    mfu: float,
    recompute: bool,
) -> Ranked:
    flops = model.flops_per_token(length) * rows * length
    compute = flops * (4 / 3 if recompute else 1) / (layout.devices * device.flops * mfu)
    number, layers = model.num_parameters(), model.num_hidden_layers
    within = layout.tensor * layout.shards * layout.context <= device.per_node
    link = device.link if within else device.network
    tokens = layout.micro * length / layout.context
    sharding = 3 * BF16 * number / layout.tensor * _share(layout.shards) * layout.accumulation / link
    tensor = 4 * layers * 2 * BF16 * tokens * model.hidden_size * _share(layout.tensor) / device.link
    pairs = model.kv_heads * model.head_size / layout.tensor
    context = 2 * layers * 2 * BF16 * tokens * pairs * (layout.context - 1)
    context /= device.link if layout.tensor * layout.context <= device.per_node else device.network
    whole = layout.devices <= device.per_node
    replicas = 2 * FP32 * number / (layout.tensor * layout.shards) * _share(layout.replicas)
    replicas /= device.link if whole else device.network
    exposed = (tensor + context) * layout.accumulation + replicas + max(0.0, sharding - compute)
    seconds = compute + exposed
    return Ranked(layout, memory, seconds, exposed, flops / (layout.devices * device.flops * seconds))


def _share(parts: int) -> float:
    """What goes over the wire of a ring collective over so many."""
    return (parts - 1) / parts


def _powers(largest: int) -> list[int]:
    return [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent <= largest]


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
