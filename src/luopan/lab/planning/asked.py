"""What `luopan plan` is asked, and its answer as plain data and as text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from luopan.errors import RecipeError
from luopan.lab.planning.devices import Device, find_device
from luopan.lab.planning.from_recipe import StagePlan, stage_plans
from luopan.lab.planning.measure import Speed, measure_speed
from luopan.lab.planning.plans import ASSUMED_MFU, Budget, as_dict, devices_for, plan_training, shape_of
from luopan.lab.planning.quantities import count_text, read_count, read_seconds, time_text
from luopan.lab.planning.scaling import BESIROGLU, deepseek_law, effective_tokens, step_law
from luopan.model.config import ModelConfig
from luopan.train.memory import estimate_memory, size_text

ASSUMED_CPU_MFU = 0.45  # 0.41 to 0.55 for 5M to 135M parameters on two cores, docs/log.md


@dataclass(frozen=True)
class Question:
    """The options of the command line, as written."""

    params: str | None = None
    preset: str | None = None
    tokens: str | None = None
    length: int = 4096
    batch_tokens: int | None = None
    device: str = ""
    devices: int = 1
    mfu: float | None = None
    price: float | None = None
    deadline: str | None = None
    unique_tokens: str | None = None
    recompute: bool = False
    all_layouts: bool = False
    measure: bool = False


def plan_size(question: Question) -> dict[str, Any]:
    """The plan of a size (or preset) and a number of tokens."""
    if (question.params is None) == (question.preset is None):
        raise RecipeError(
            "a plan needs a recipe, --params or --preset, and one of them only", hint="luopan plan --help has examples."
        )
    model = (
        ModelConfig.model_validate(_preset(question.preset))
        if question.preset is not None
        else shape_of(read_count(str(question.params), "--params"))
    )
    tokens = read_count(question.tokens, "--tokens") if question.tokens else 20.0 * model.num_active_parameters()
    rows = _rows(question, model, tokens)
    budget = _budget(question, question.device or "h100")
    extra: dict[str, Any] = {}
    if question.deadline is not None:
        wanted = read_seconds(question.deadline, "--deadline")
        count = devices_for(model, tokens, question.length, wanted, budget)
        extra["deadline"] = {"seconds": wanted, "devices": count}
        budget = replace(budget, devices=count)
        rows = -(-rows // count) * count  # so that each has as many rows
    plan = plan_training(
        model, tokens=tokens, rows=rows, length=question.length, budget=budget, recompute=question.recompute,
        ours=not question.all_layouts,
    )  # fmt: skip
    if question.unique_tokens is not None:
        unique = read_count(question.unique_tokens, "--unique-tokens")
        epochs = tokens / unique
        extra["data"] = {
            "unique_tokens": unique,
            "epochs": epochs,
            "worth_tokens": effective_tokens(unique, epochs),
        }
    return {"plans": [{**as_dict(plan), **extra, "shape": _shape(model)}]}


def _preset(name: str) -> dict[str, Any]:
    from luopan.model.presets import PRESETS

    if name not in PRESETS:
        import difflib

        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise RecipeError(
            f'there is no preset "{name}"', hint=f"did you mean {near[0]}?" if near else ", ".join(PRESETS)
        )
    return {"preset": name}


def _rows(question: Question, model: ModelConfig, tokens: float) -> int:
    """Rows of a step: as asked, or between what the two fits say, in whole rows, at least one for each device."""
    if question.length <= 0:
        raise RecipeError(f"--length is {question.length}, it must be above 0")
    if question.batch_tokens is not None:
        rows, rest = divmod(question.batch_tokens, question.length)
        if rest or not rows:
            raise RecipeError(
                f"--batch-tokens {question.batch_tokens} is not a number of rows of {question.length}",
                hint=f"{max(1, rows) * question.length} is.",
            )
        return rows
    number = model.num_non_embedding_parameters()
    fits = step_law(number, tokens)[1], deepseek_law(6 * number * tokens)[1]
    per = max(1, question.devices)
    rows = max(1, round((fits[0] * fits[1]) ** 0.5 / question.length / per))
    return int(2 ** round(rows.bit_length() - 1)) * per


def _budget(question: Question, name: str) -> Budget:
    if name == "this":
        device = this_device()
        mfu = question.mfu or (ASSUMED_CPU_MFU if device.name == "this machine's CPU" else ASSUMED_MFU)
        return Budget(device, question.devices, mfu, False, question.price)
    return Budget(find_device(name), question.devices, question.mfu or ASSUMED_MFU, False, question.price)


def this_device() -> Device:
    """The machine at hand, its matrix products measured (half a second)."""
    from luopan.lab.doctor import torch_facts, usable_memory

    _, cpu_flops, _, cards = torch_facts([])
    for card in cards:
        if card.flops:
            return Device(card.name, card.flops, card.memory_bytes, 0.0, 50e9, 25e9, len(cards), None, "measured")
    assert cpu_flops is not None
    return Device("this machine's CPU", cpu_flops, usable_memory(), 0.0, 1e9, 1e9, 1, None, "measured")


def plan_recipe(recipe: str, question: Question) -> dict[str, Any]:
    """Of every training stage of a recipe: what it costs, here or on a named device."""
    if question.params or question.preset:
        raise RecipeError("a recipe has its own sizes: leave --params and --preset out")
    from luopan.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    budget = _budget(question, question.device or "this")
    stages = [_stage(stage, budget, question) for stage in stage_plans(loaded.recipe.stages)]
    if not stages:
        raise RecipeError("the recipe has no stage that trains", where=recipe)
    known = [stage["seconds"] for stage in stages if stage.get("seconds") is not None]
    total: dict[str, Any] = {
        "flops": sum(stage.get("flops") or 0 for stage in stages),
        "seconds": sum(known),
        "unknown": [stage["name"] for stage in stages if stage.get("seconds") is None],
        "cost_usd": budget.cost(sum(known)),
    }
    note = [] if question.measure else [f"MFU {budget.mfu:.2f} is assumed: --measure times this machine."]
    return {
        "recipe": loaded.recipe.name,
        "device": budget.device.name,
        "devices": budget.devices,
        "stages": stages,
        "total": total,
        "notes": [
            *note,
            "Of stages that train: curation, tokenizers, evaluation and starting up come on top, and the data decides "
            "how full rows are.",
        ],
    }


def _stage(stage: StagePlan, budget: Budget, question: Question) -> dict[str, Any]:
    told: dict[str, Any] = {"name": stage.name, "kind": stage.kind, "seconds": None}
    if stage.model is not None:
        told |= {"parameters": stage.model.num_parameters(), "active_parameters": stage.model.num_active_parameters()}
    if stage.model is None or stage.config is None:
        return {**told, "reason": stage.reason}
    config = stage.config
    kind = "cpu" if "CPU" in budget.device.name else "cuda"
    shards = budget.devices if config.parallel == "full_shard" else 1
    memory = estimate_memory(
        stage.model,
        config,
        rows=config.per_device_train_batch_size,
        length=stage.length,
        device_type=kind,
        shards=shards,
    )
    flops = stage.model.flops_per_token(stage.length) * stage.tokens
    flops += stage.model.flops_per_token(stage.length) / 3 * stage.sampled * config.max_steps
    speed: Speed | None = None
    if question.measure and budget.device.source == "measured":
        keys = {"per_device_train_batch_size": config.per_device_train_batch_size,
                "gradient_accumulation_steps": config.gradient_accumulation_steps, "optim": config.optim,
                "activation_recompute": config.activation_recompute, "precision": config.precision}  # fmt: skip
        speed = measure_speed(stage.model, keys, length=stage.length)
    rate = speed.flops if speed is not None else budget.flops
    fresh = stage.kind == "pretrain"
    return {
        **told,
        "steps": config.max_steps,
        "tokens_per_step": stage.tokens_per_step,
        "tokens": stage.tokens,
        "flops": flops,
        "seconds": flops / rate,
        "tokens_per_second": stage.tokens / (flops / rate),
        "measured": speed is not None,
        "mfu": rate / budget.devices / budget.device.flops,
        "memory_bytes": memory.total,
        "memory": memory.text(),
        "tokens_per_parameter": stage.tokens / stage.model.num_active_parameters() if fresh else None,
        "best_tokens": BESIROGLU.optimal_tokens(stage.model.num_active_parameters()) if fresh else None,
        "fits_in_memory": memory.total <= budget.device.memory_bytes,
    }


def _shape(model: ModelConfig) -> str:
    return (
        f"{model.num_hidden_layers} layers, width {model.hidden_size}, {model.num_attention_heads} heads "
        f"({model.kv_heads} for keys and values), inner width {model.intermediate_size}, {model.vocab_size:,} tokens"
    )


# ------------------------------------------------------------------------------------------------------------- as text


def as_text(answer: dict[str, Any]) -> str:
    """For people."""
    return _recipe_text(answer) if "stages" in answer else "\n\n".join(_size_text(plan) for plan in answer["plans"])


def _recipe_text(answer: dict[str, Any]) -> str:
    head = ("stage", "kind", "params", "steps", "tokens", "FLOPs", "memory", "time", "MFU")
    rows = [head]
    for stage in answer["stages"]:
        size = count_text(stage["parameters"]) if "parameters" in stage else "?"
        if stage["seconds"] is None:
            rows.append((stage["name"], stage["kind"], size, *[""] * 4, "not known yet", ""))
            continue
        rows.append((
            stage["name"], stage["kind"], size, f"{stage['steps']:,}", count_text(stage["tokens"]),
            f"{stage['flops']:.2e}", size_text(stage["memory_bytes"]), time_text(stage["seconds"]),
            f"{stage['mfu']:.2f}",
        ))  # fmt: skip
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    total, cost = answer["total"], answer["total"]["cost_usd"]
    lines += ["", f"{answer['recipe']} on {answer['devices']} × {answer['device']}: {total['flops']:.2e} FLOPs, "
                  f"{time_text(total['seconds'])}" + (f", about ${cost:,.2f}" if cost is not None else "")]  # fmt: skip
    for stage in answer["stages"]:
        if stage.get("reason"):
            lines.append(f"- {stage['name']}: {stage['reason']}.")
        if stage.get("best_tokens"):
            lines.append(
                f"- {stage['name']}: {stage['tokens_per_parameter']:.1f} tokens a parameter; for this size the "
                f"refitted Chinchilla law calls {count_text(stage['best_tokens'])} tokens the best use of compute."
            )
        if stage.get("fits_in_memory") is False:
            lines.append(f"- {stage['name']}: DOES NOT FIT: {stage['memory']}.")
    return "\n".join([*lines, *(f"- {note}" for note in answer["notes"])])


def _size_text(plan: dict[str, Any]) -> str:
    cost = "" if plan["cost_usd"] is None else f", about ${plan['cost_usd']:,.0f}"
    lines = [
        f"model        {count_text(plan['parameters'])} parameters ({count_text(plan['embedding_parameters'])} in "
        f"embeddings): {plan['shape']}",
        f"training     {count_text(plan['tokens'])} tokens in {plan['steps']:,} steps of "
        f"{count_text(plan['tokens_per_step'])}; {plan['flops']:.3g} FLOPs ({plan['flops_per_token']:.3g} a token)",
        f"time         {time_text(plan['seconds'])} on {plan['devices']} × {plan['device']} at MFU {plan['mfu']:.2f}: "
        f"{plan['device_hours']:,.0f} device hours{cost}",
    ]
    if "deadline" in plan:
        wanted = plan["deadline"]
        lines.append(f"deadline     {time_text(wanted['seconds'])}: {wanted['devices']} devices, in whole servers")
    place = plan["position"]
    if place:
        lines.append(
            f"position     {place['tokens_per_parameter']:.1f} tokens a parameter, {place['over']:,.3g} times what is "
            f"best for its size; loss {place['loss']:.2f} by the refitted Chinchilla law; the same compute is best "
            f"spent on {count_text(place['best_parameters'])} parameters and {count_text(place['best_tokens'])} tokens"
        )
    if "data" in plan:
        data = plan["data"]
        lines.append(
            f"data         {count_text(data['unique_tokens'])} tokens are read {data['epochs']:.2g} times: worth "
            f"{count_text(data['worth_tokens'])} fresh ones"
        )
    for name, fit in plan["bracket"].items():
        lines.append(
            f"fit          {name}: learning rate {fit['learning_rate']:.1e}, "
            f"{count_text(fit['batch_tokens'])} tokens a step"
        )
    for place_, one in enumerate(plan["layouts"][:5]):
        parts = ", ".join(f"{key} {size_text(size)}" for key, size in one["memory_bytes"].items() if key != "total")
        lines.append(
            f"{'layout' if not place_ else '':<12} {one['layout']}: {time_text(one['step_seconds'])} a step, "
            f"{size_text(one['memory_bytes']['total'])}" + (f" ({parts})" if not place_ else "")
        )
    lines.append(f"{'':<12} {plan['layouts_looked_at']} layouts looked at, {plan['layouts_too_large']} too large")
    return "\n".join([*lines, *(f"- {note}" for note in plan["notes"])])
