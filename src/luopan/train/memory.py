"""How much memory a training will take, counted before it starts, without torch; and what to change where it is short.

Counted tensor by tensor: weights, gradients and optimizer state in fp32, what each block keeps for its backward pass
(the operations of `model/ops.py` on the CPU, torch's own under bf16 autocast on CUDA), the head's pieces, the copy that
a background save writes. The peak is the larger of two moments: the start of the backward pass, when all activations
are alive, and its end, when all gradients are.

The figure is what torch's allocator hands out, as `torch.cuda.max_memory_allocated` counts it; measured within 10% over
sizes, vocabularies, recompute, packing and experts (`tests/train/test_memory.py`). On the CPU a process takes 1.0 to
1.45 times that, since glibc cannot fill every gap with blocks of other sizes: `PROCESS_FACTOR` stands for it where the
estimate is compared with what is free. Limits: the CUDA figures follow from the same count and have not been compared
with a GPU; experts are counted as if tokens were spread evenly; what a feed holds is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luopan.errors import TrainingError
from luopan.model.config import ModelConfig
from luopan.train.config import TrainConfig

if TYPE_CHECKING:
    import torch

    from luopan.tokens.batch import Batch

FP32, BF16 = 4, 2
PROCESS_FACTOR = 1.3


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. `total` is the peak; parts that are not alive at the same moment do not add up to it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass, all blocks
    working: int  # of the block and the head at hand
    copies: int  # EMA, a background save, bf16 weights
    total: int

    def text(self) -> str:
        """One line for the eye."""
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "working": self.working,
            "copies": self.copies,
        }
        shown = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items() if size)
        return f"{size_text(self.total)} at the peak ({shown})"


def estimate_memory(
    model: ModelConfig,
    config: TrainConfig,
    *,
    rows: int,
    length: int,
    device_type: str = "cpu",
    packed: bool = True,
    trained: float = 1.0,
    shards: int = 1,
    learning: float = 1.0,
) -> MemoryEstimate:
    """Memory of a training step with micro-batches of `rows` rows of `length` tokens.

    `packed`: rows hold several documents. `trained`: share of the positions that are learned. `shards`: ranks that
    share weights, gradients and optimizer state (parallel: full_shard). `learning`: share of the parameters that are
    trained (adapters): the others have neither gradient nor optimizer state.
    """
    half = config.precision == "bf16" or (config.precision == "auto" and device_type == "cuda")
    number = model.num_parameters()
    weights = FP32 * number // shards
    gradients = int(weights * learning)
    optimizer = int(_optimizer_bytes(model, config) * learning) // shards
    tokens = rows * length
    blocks = [_block_bytes(model, layer, half=half, packed=packed) * tokens for layer in range(model.num_hidden_layers)]
    inputs = FP32 * model.hidden_size * tokens  # a block's input: all that full recompute keeps
    kept = {"none": blocks, "selective": _selective(model, blocks, tokens, half), "full": [inputs] * len(blocks)}
    ends = (BF16 if half else FP32) * 4 * model.hidden_size * tokens
    activations = sum(kept[config.activation_recompute]) + ends
    # What is computed again of the block at hand, beside what was kept of it.
    one_block = {
        "none": 0,
        "selective": max(block - part for block, part in zip(blocks, kept["selective"], strict=True)),
        "full": max(blocks),
    }[config.activation_recompute]
    transient = _backward_working(model, half) * tokens
    head, head_gradient = _head_bytes(model, trained * tokens, device_type)
    if learning < 1:
        head_gradient = 0  # the head is frozen
    copies = gradients if config.ema_decay is not None else 0
    if half:
        copies += BF16 * number  # autocast keeps the weights' bf16 form until the step is over
    if device_type == "cpu" and config.async_save and config.max_steps > config.save_steps:
        copies += gradients + optimizer + (gradients if config.ema_decay is not None else 0)
    # A tied head's gradient is there before the backward pass begins; the others come as activations go.
    early = activations + max(head, one_block + transient) + head_gradient
    embedding = FP32 * model.vocab_size * model.hidden_size if learning == 1 else 0
    late = gradients + embedding
    held = weights + optimizer + copies
    if config.gradient_accumulation_steps > 1:
        early += gradients  # those of the micro-batches before
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        working=max(head, one_block + transient) + head_gradient,
        copies=copies,
        total=held + max(early, late),
    )


def _optimizer_bytes(model: ModelConfig, config: TrainConfig) -> int:
    """State beside the weights: two moments for AdamW (one byte each for 8-bit), one for Muon's matrices."""
    number = model.num_parameters()
    if config.optim == "adamw_8bit":
        return 2 * number
    if config.optim == "adamw":
        return 2 * FP32 * number
    ends = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return FP32 * (number - ends) + 2 * FP32 * ends


def _widths(model: ModelConfig, layer: int) -> tuple[int, int, int, int]:
    """Hidden, query and key/value width, and the inner width that a token of this layer passes through."""
    inner = model.intermediate_size
    if model.moe_layers[layer]:
        assert model.num_experts_per_tok is not None
        inner = model.num_experts_per_tok * (model.moe_intermediate_size or model.intermediate_size)
        inner += model.shared_expert_intermediate_size or 0
    heads = model.num_attention_heads * model.head_size
    return model.hidden_size, heads, model.kv_heads * model.head_size, inner


def _block_bytes(model: ModelConfig, layer: int, *, half: bool, packed: bool) -> int:
    """What one block keeps of one token for its backward pass."""
    hidden, heads, pairs, inner = _widths(model, layer)
    if not half:
        # Two norms (normalised input and output), q, k, v, attention's output, and gate, up and their SwiGLU.
        numbers = 4 * hidden + 2 * heads + 2 * pairs + 3 * inner
        if packed:
            numbers += heads  # attention's output once in stacks and once in rows
        if model.qk_norm:
            numbers += heads + pairs
        if model.moe_layers[layer]:
            assert model.num_experts_per_tok is not None
            numbers += 3 * model.num_experts_per_tok * hidden  # tokens sorted by expert, and back
        return FP32 * numbers
    # Residual stream in fp32 (kept by the norms), everything else in bf16.
    return FP32 * 2 * hidden + BF16 * (2 * hidden + 3 * heads + 2 * pairs + 4 * inner)


def _selective(model: ModelConfig, blocks: Sequence[int], tokens: int, half: bool) -> list[int]:
    """Blocks that keep what matrix products and attention made, and compute norms, rotations and SwiGLU again."""
    size = BF16 if half else FP32
    kept = []
    for layer in range(len(blocks)):
        hidden, heads, pairs, inner = _widths(model, layer)
        kept.append(tokens * (FP32 * hidden + size * (2 * hidden + 2 * heads + 2 * pairs + 2 * inner)))
    return kept


def _backward_working(model: ModelConfig, half: bool) -> int:
    """Gradients alive at once in a block's backward pass, of one token: around the SwiGLU, the widest place."""
    _, _, _, inner = max((_widths(model, layer) for layer in range(model.num_hidden_layers)), key=lambda w: w[3])
    return (BF16 if half else FP32) * inner + FP32 * model.hidden_size


def _head_bytes(model: ModelConfig, targets: float, device_type: str) -> tuple[int, int]:
    """(logits of a piece with their copy, gradients of the head and of its input), see `luopan.model.head`."""
    from luopan.model.pieces import piece_rows

    rows = min(piece_rows(model.vocab_size, device_type), int(targets) or 1)
    gradient = FP32 * (model.vocab_size * model.hidden_size + int(targets) * model.hidden_size)
    return FP32 * rows * model.vocab_size, gradient


# ---------------------------------------------------------------------------------------------------- before and after


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device; None where it cannot be asked."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def shape_of(batches: Sequence[Batch], model: ModelConfig, config: TrainConfig) -> dict[str, Any]:
    """What `estimate_memory` wants to know of a step's batches: the largest micro-batch counts.

    Without a batch: full rows as long as the context, as many as the configuration says.
    """
    if not batches:
        return {"rows": config.per_device_train_batch_size, "length": model.max_position_embeddings}
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    rows, length = largest.input_ids.shape
    trained = largest.num_targets / largest.input_ids.numel()
    return {"rows": rows, "length": length, "packed": not largest.layout.is_causal, "trained": trained}


def foresee(
    model: ModelConfig,
    config: TrainConfig,
    batches: Sequence[Batch],
    device: torch.device,
    shards: int,
    note: Callable[[str], None],
    learning: float = 1.0,
) -> MemoryEstimate:
    """The estimate for a run that is about to make its first step; a note where there is not enough."""
    shape = shape_of(batches, model, config)
    estimate = estimate_memory(model, config, device_type=device.type, shards=shards, learning=learning, **shape)
    warning = shortage(estimate, device)
    if warning:
        note(warning)
    return estimate


def shortage(estimate: MemoryEstimate, device: torch.device) -> str | None:
    """A warning if the estimate is more than there is (what is loaded already, the weights, is free of charge)."""
    free = available_bytes(device)
    needed = (estimate.total - estimate.weights) * (PROCESS_FACTOR if device.type == "cpu" else 1.0)
    if free is None or needed <= free:
        return None
    return (
        f"WARNING: this training is expected to need {estimate.text()}, and {size_text(free)} are free: "
        "it may run out of memory."
    )


def cheaper(
    model: ModelConfig, config: TrainConfig, *, rows: int, length: int, device_type: str, **rest: Any
) -> list[tuple[str, int]]:
    """Changes that lower the peak by at least 3%, the least costly first: (what to set, bytes that are left)."""

    def left(changed: TrainConfig, rows: int = rows, length: int = length) -> int:
        return estimate_memory(model, changed, rows=rows, length=length, device_type=device_type, **rest).total

    now = left(config)
    options: list[tuple[str, int]] = []
    smaller, whole = rows // 2, config.rows_per_step
    if smaller and config.interchangeable and whole % smaller == 0:
        cut = {"per_device_train_batch_size": smaller, "gradient_accumulation_steps": whole // smaller}
        setting = " ".join(f"{name}={value}" for name, value in cut.items())
        options.append((f"{setting} (the same result)", left(config.model_copy(update=cut), rows=smaller)))
    if config.async_save:
        options.append(
            ("async_save=false (each save stops training)", left(config.model_copy(update={"async_save": False})))
        )
    if config.activation_recompute != "full":
        full = config.model_copy(update={"activation_recompute": "full"})
        options.append(("activation_recompute=full (the same result, about a third slower)", left(full)))
    if device_type == "cuda" and config.optim == "adamw":
        options.append(("optim=adamw_8bit", left(config.model_copy(update={"optim": "adamw_8bit"}))))
    if length > 1:
        options.append((f"rows of {length // 2} tokens instead of {length}", left(config, length=length // 2)))
    return [(text, size) for text, size in options if size < 0.97 * now]


def largest_batch(
    model: ModelConfig, config: TrainConfig, free_bytes: int, *, length: int, device_type: str, **rest: Any
) -> int:
    """The most rows of `length` tokens a micro-batch may have within `free_bytes`; 0 if not even one fits."""

    def fits(rows: int) -> bool:
        estimate = estimate_memory(model, config, rows=rows, length=length, device_type=device_type, **rest)
        return estimate.total <= free_bytes

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@contextmanager
def memory_errors(
    model: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    when: str,
    batches: Sequence[Batch] = (),
    shards: int = 1,
) -> Iterator[None]:
    """Turns an allocation that failed into a TrainingError with the estimate and the three cheapest changes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        shape = {**shape_of(batches, model, config), "device_type": device.type, "shards": shards}
        changes = cheaper(model, config, **shape)
        advice = "; ".join(f"{text}: {size_text(size)}" for text, size in changes[:3])
        raise TrainingError(
            f"out of memory {when}: expected {estimate_memory(model, config, **shape).text()}",
            hint=f"The cheapest changes and what they would need: {advice}." if advice else "Use a smaller model.",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator said no: Python's, torch's on the CPU (a plain RuntimeError) or on CUDA."""
    names = {kind.__name__ for kind in type(error).__mro__}
    words = ("can't allocate memory", "std::bad_alloc", "could not create a memory")
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or any(text in str(error) for text in words)


def size_text(size: float) -> str:
    """Bytes for the eye: 812 MB, 1.24 GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
