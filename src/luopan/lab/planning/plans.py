"""A plan: what a model, or each training stage of a recipe, costs on named devices.

    plan = plan_training(preset("smollm3-3b"), tokens=11.1e12, rows=576, length=4096, device="h100", devices=384)

Time is FLOPs over devices · peak · MFU. An MFU that was not measured is an assumption and is called one: 0.35 is what
well-kept trainings of 1B to 10B parameters report on H100s (SmolLM3 about 0.30); small models on one GPU often reach
half of it. `measure.py` measures it on the machine at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luopan.errors import RecipeError
from luopan.lab.planning.devices import Device
from luopan.lab.planning.layouts import USABLE, Ranked, rank_layouts
from luopan.lab.planning.scaling import Position, deepseek_law, position, step_law
from luopan.model.config import ModelConfig

ASSUMED_MFU = 0.35
DAY = 86_400.0


@dataclass(frozen=True)
class Budget:
    """What there is: `devices` of a kind, what of their peak is reached, what an hour of one costs."""

    device: Device
    devices: int = 1
    mfu: float = ASSUMED_MFU
    mfu_measured: bool = False
    price: float | None = None

    @property
    def flops(self) -> float:
        """Per second, all together."""
        return self.devices * self.device.flops * self.mfu

    def cost(self, seconds: float) -> float | None:
        """US dollars."""
        price = self.device.price if self.price is None else self.price
        return None if price is None else price * self.devices * seconds / 3600


@dataclass(frozen=True)
class Plan:
    """Of one training. `bracket`: published fits' (learning rate, tokens a batch) by name."""

    name: str
    model: ModelConfig
    tokens: float
    rows: int
    length: int
    budget: Budget
    flops: float
    seconds: float
    cost: float | None
    layouts: list[Ranked]
    looked: int
    full: int
    place: Position | None
    bracket: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / (self.rows * self.length))


def plan_training(
    model: ModelConfig,
    *,
    tokens: float,
    rows: int,
    length: int,
    budget: Budget,
    name: str = "pretraining",
    fresh: bool = True,
    recompute: bool = False,
    ours: bool = True,
) -> Plan:
    """The plan of `tokens` tokens in steps of `rows` rows of `length`. `fresh`: from random weights, where published
    fits apply. RecipeError for numbers that cannot be."""
    for key, value in {"tokens": tokens, "rows": rows, "length": length, "devices": budget.devices}.items():
        if not value > 0:
            raise RecipeError(f"{key} is {value:g}, it must be above 0")
    if not 0 < budget.mfu <= 1:
        raise RecipeError(f"mfu is {budget.mfu:g}", hint="a share of the peak, such as 0.35")
    flops = model.flops_per_token(length) * tokens
    layouts, looked, full = rank_layouts(
        model, budget.device, budget.devices, rows=rows, length=length, mfu=budget.mfu, recompute=recompute, ours=ours
    )
    seconds = flops / budget.flops
    if layouts:  # traffic that nothing hides is time, too
        seconds = layouts[0].seconds * tokens / (rows * length)
    number = model.num_non_embedding_parameters()
    bracket = {"Step Law": step_law(number, tokens), "DeepSeek": deepseek_law(6 * number * tokens)} if fresh else {}
    return Plan(
        name=name,
        model=model,
        tokens=tokens,
        rows=rows,
        length=length,
        budget=budget,
        flops=flops,
        seconds=seconds,
        cost=budget.cost(seconds),
        layouts=layouts,
        looked=looked,
        full=full,
        place=position(model.num_active_parameters(), tokens) if fresh else None,
        bracket=bracket,
        notes=tuple(_notes(model, tokens, rows, budget, layouts, looked, full, fresh)),
    )


def _notes(
    model: ModelConfig,
    tokens: float,
    rows: int,
    budget: Budget,
    layouts: list[Ranked],
    looked: int,
    full: int,
    fresh: bool,
) -> list[str]:
    said = []
    if not budget.mfu_measured:
        said.append(f"MFU {budget.mfu:.2f} is assumed, not measured: time and cost go with it.")
    if not looked:
        more = -(-rows // budget.devices) * budget.devices
        said.append(
            f"{rows} rows a step do not divide over {budget.devices} devices: take {more} rows, other devices, or "
            "tensor or context parallelism (--all-layouts)."
        )
    elif not layouts:
        said.append(
            f"None of {full} layouts fits {USABLE:.0%} of {budget.device.memory_bytes / 1e9:.0f} GB: take more "
            "devices, smaller micro-batches, activation_recompute, or tensor parallelism (--all-layouts)."
        )
    if fresh and tokens < 5 * model.num_active_parameters():
        said.append(
            f"{tokens / model.num_active_parameters():.1f} tokens a parameter is little: a smaller model would learn "
            "more from the same compute."
        )
    return said


def devices_for(model: ModelConfig, tokens: float, length: int, seconds: float, budget: Budget) -> int:
    """How many devices finish in `seconds`: FLOPs / (peak · MFU · seconds), whole servers where more than one."""
    if not seconds > 0:
        raise RecipeError("the deadline must be above 0")
    flops = model.flops_per_token(length) * tokens
    wanted = math.ceil(flops / (budget.device.flops * budget.mfu * seconds))
    per = budget.device.per_node
    return wanted if wanted <= per else math.ceil(wanted / per) * per


def shape_of(parameters: float, *, vocab_size: int = 49_152) -> ModelConfig:
    """A usual shape of about so many parameters, for a plan that names only a size.

    Widths in steps of 32 and more, depth from the aspect of published small models (19 to 128 times the depth,
    growing with size), grouped queries of four heads, SwiGLU of 8/3, embeddings tied below 3.5B.
    """
    if not 5e5 <= parameters <= 2e11:
        raise RecipeError(f"{parameters:g} parameters: plans are for 500K to 200B")
    vocab = vocab_size if parameters > 4e7 else min(vocab_size, 8192 if parameters > 3e6 else 2048)
    best: tuple[float, ModelConfig] | None = None
    for hidden in (*range(64, 512, 32), *range(512, 2048, 64), *range(2048, 16_385, 128)):
        heads = hidden // (32 if hidden < 512 else 64 if hidden < 2048 else 128)
        group = next((size for size in (4, 3, 2) if heads % size == 0), None)
        if group is None:
            continue
        usual = hidden / min(128.0, max(19.2, 19.2 * (hidden / 576) ** 0.85))
        for layers in {max(2, round(usual * factor)) for factor in (0.8, 0.9, 1.0, 1.1, 1.25)}:
            one = ModelConfig(
                vocab_size=vocab,
                hidden_size=hidden,
                intermediate_size=round(hidden * 8 / 3 / 32) * 32,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads // group,
                tie_word_embeddings=parameters < 3.5e9,
            )
            # A per cent of the size is worth as much as ten of the usual depth.
            off = abs(one.num_parameters() / parameters - 1) + 0.1 * abs(layers / usual - 1)
            if best is None or off < best[0]:
                best = off, one
    assert best is not None
    return best[1]


def as_dict(plan: Plan) -> dict[str, Any]:
    """Plain data for JSON."""
    model, best = plan.model, plan.layouts[0] if plan.layouts else None
    return {
        "name": plan.name,
        "parameters": model.num_parameters(),
        "active_parameters": model.num_active_parameters(),
        "embedding_parameters": model.num_parameters() - model.num_non_embedding_parameters(),
        "tokens": plan.tokens,
        "steps": plan.steps,
        "tokens_per_step": plan.rows * plan.length,
        "flops_per_token": model.flops_per_token(plan.length),
        "flops": plan.flops,
        "device": plan.budget.device.name,
        "devices": plan.budget.devices,
        "mfu": plan.budget.mfu,
        "mfu_measured": plan.budget.mfu_measured,
        "seconds": plan.seconds,
        "device_hours": plan.seconds * plan.budget.devices / 3600,
        "cost_usd": plan.cost,
        "layouts_looked_at": plan.looked,
        "layouts_too_large": plan.full,
        "layouts": [
            {
                "layout": one.layout.text(),
                "memory_bytes": {**vars(one.memory), "total": one.memory.total},
                "step_seconds": one.seconds,
                "exposed_seconds": one.exposed,
                "mfu": one.mfu,
            }
            for one in plan.layouts[:8]
        ],
        "memory_bytes": None if best is None else best.memory.total,
        "position": None if plan.place is None else vars(plan.place),
        "bracket": {name: {"learning_rate": lr, "batch_tokens": batch} for name, (lr, batch) in plan.bracket.items()},
        "notes": list(plan.notes),
    }
