"""Plans against published figures, and against this machine."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from luopan.errors import RecipeError
from luopan.lab.planning import asked, measure
from luopan.lab.planning.devices import DEVICES, find_device
from luopan.lab.planning.from_recipe import stage_plans
from luopan.lab.planning.layouts import Layout, enumerate_layouts, rank_layouts, split_memory
from luopan.lab.planning.plans import Budget, devices_for, plan_training, shape_of
from luopan.lab.planning.quantities import count_text, read_count, read_seconds, time_text
from luopan.lab.planning.scaling import BESIROGLU, HOFFMANN, deepseek_law, effective_tokens, position, step_law
from luopan.model.config import ModelConfig
from luopan.model.presets import preset
from luopan.recipe.load import load_recipe

H100 = find_device("h100")
SMOLLM3 = preset("smollm3-3b")


def test_smollm3_took_about_24_days_on_384_gpus_at_30_per_cent() -> None:
    """huggingface.co/blog/smollm3: 11.1T tokens, 384 H100s, 24 days; the playbook names 30% MFU."""
    plan = plan_training(SMOLLM3, tokens=11.1e12, rows=576, length=4096, budget=Budget(H100, 384, 0.30), ours=False)
    assert plan.seconds / 86_400 == pytest.approx(24, rel=0.1)
    assert plan.steps == pytest.approx(4.72e6, rel=0.01)
    assert devices_for(SMOLLM3, 11.1e12, 4096, 26 * 86_400, Budget(H100, mfu=0.30)) == 368  # whole servers of eight


def test_memory_of_smollm3_at_its_layout_is_near_the_published_peak() -> None:
    """shared figures: about 74 GB with TP 2, three rows of 4096, logits held."""
    found = split_memory(SMOLLM3, Layout(192, 1, 2, 1, 3, 1), 4096, held_logits=True)
    assert found.total == pytest.approx(74e9, rel=0.1)
    # 18 bytes a parameter, halved by tensor parallelism.
    assert found.weights + found.gradients + found.optimizer == pytest.approx(
        18 * SMOLLM3.num_parameters() / 2, rel=1e-6
    )


@pytest.mark.parametrize(("changes", "layers", "billions"), [({"num_key_value_heads": 32}, 14, 1.20), ({}, 16, 1.24)])
def test_sizes_of_the_playbooks_attention_ablation(changes: dict[str, Any], layers: int, billions: float) -> None:
    model = preset("llama3.2-1b", num_hidden_layers=layers, **changes)
    assert model.num_parameters() / 1e9 == pytest.approx(billions, abs=0.006)
    assert model.num_parameters() - model.num_non_embedding_parameters() == 128_256 * 2048


def test_chinchilla_by_its_refit_and_as_printed() -> None:
    """At 5.8e23 FLOPs: about 18 tokens a parameter by the refit, 93 by the rounded constants."""
    assert [round(law.optimum(5.8e23)[1] / law.optimum(5.8e23)[0]) for law in (BESIROGLU, HOFFMANN)] == [18, 93]
    number, tokens = BESIROGLU.optimum(1e21)
    assert 6 * number * tokens == pytest.approx(1e21)
    best = BESIROGLU.loss(number, tokens)
    assert all(BESIROGLU.loss(number * k, tokens / k) > best for k in (0.9, 1.1))  # it is the minimum
    assert BESIROGLU.optimal_tokens(number) == pytest.approx(tokens)
    assert position(number, tokens).over == pytest.approx(1)


def test_learning_rate_laws_for_smollm3() -> None:
    number, tokens = SMOLLM3.num_non_embedding_parameters(), 11.1e12
    rate, batch = step_law(number, tokens)
    assert (rate, batch) == (pytest.approx(3.3e-3, rel=0.02), pytest.approx(16.2e6, rel=0.02))
    rate, batch = deepseek_law(6 * number * tokens)
    assert (rate, batch) == (pytest.approx(3.8e-4, rel=0.02), pytest.approx(12.2e6, rel=0.03))


def test_what_repeated_tokens_are_worth() -> None:
    assert effective_tokens(10, 0.5) == 5
    assert effective_tokens(10, 1) == 10
    assert effective_tokens(10, 4) == pytest.approx(10 + 154 * (1 - math.exp(-3 / 15.4)))
    assert effective_tokens(10, 1e6) == pytest.approx(164)  # a limit of 16.4 readings


def test_layouts_use_every_device_and_every_row() -> None:
    found = list(enumerate_layouts(SMOLLM3, H100, 16, rows=64, length=8192))
    assert len(found) == len(set(found)) > 50
    for one in found:
        assert one.devices == 16
        assert one.replicas * one.shards * one.micro * one.accumulation == 64
        assert one.tensor in (1, 2, 4)  # 4 key/value heads


def test_layouts_that_do_not_fit_are_counted_and_the_rest_ranked() -> None:
    small = Budget(find_device("rtx4090"), 8)
    found, looked, full = rank_layouts(SMOLLM3, small.device, 8, rows=64, length=4096, mfu=0.4)
    assert looked == len(found) + full
    assert full > 0
    assert all(one.layout.shards > 1 for one in found)  # 55 GB of state do not fit 24 GB
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    alone = rank_layouts(preset("smollm2-135m"), H100, 1, rows=8, length=2048, mfu=0.4)[0]
    assert alone[0].exposed == 0
    assert alone[0].mfu == pytest.approx(0.4)


def test_sharding_trades_memory_for_traffic() -> None:
    whole, shared = (split_memory(SMOLLM3, Layout(8 // s, s, 1, 1, 1, 1), 4096) for s in (1, 8))
    assert shared.optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert shared.activations == whole.activations
    recomputed = split_memory(SMOLLM3, Layout(8, 1, 1, 1, 1, 1), 4096, recompute=True)
    assert recomputed.activations < whole.activations / 5


def test_no_room_is_said_with_what_to_do() -> None:
    plan = plan_training(SMOLLM3, tokens=1e9, rows=8, length=4096, budget=Budget(find_device("rtx3090")))
    assert not plan.layouts
    assert "fits" in plan.notes[1] and "sharding" not in plan.notes[1]
    uneven = plan_training(SMOLLM3, tokens=1e12, rows=576, length=4096, budget=Budget(H100, 384))
    assert "576 rows a step do not divide over 384 devices: take 768 rows" in " ".join(uneven.notes)


@pytest.mark.parametrize("parameters", [1e6, 5e6, 3e7, 1.35e8, 3.6e8, 1e9, 3e9, 7e9])
def test_a_size_becomes_a_usual_shape(parameters: float) -> None:
    model = shape_of(parameters)
    assert model.num_parameters() == pytest.approx(parameters, rel=0.15)
    assert model.num_attention_heads % model.kv_heads == 0
    assert model.num_hidden_layers >= 2


@pytest.mark.parametrize(
    ("text", "value"), [("135M", 135e6), ("1.5b", 1.5e9), ("11T", 11e12), ("2e9", 2e9), ("4096", 4096), ("20k", 2e4)]
)
def test_quantities(text: str, value: float) -> None:
    assert read_count(text, "x") == value


def test_times_and_texts() -> None:
    assert [read_seconds(text, "x") for text in ("90min", "12h", "3d")] == [5400, 43_200, 259_200]
    assert [count_text(value) for value in (1.35e8, 11.1e12, 999, 4.7e6)] == ["135M", "11.1T", "999", "4.7M"]
    assert [time_text(value) for value in (3, 600, 93_784, 2.15e6)] == [
        "3 s",
        "10.0 minutes",
        "26.1 hours",
        "24.9 days",
    ]
    for wrong in ("3X", "-1B", "0", "", "1 2"):
        with pytest.raises(RecipeError, match="--params is"):
            read_count(wrong, "--params")


def test_mistakes_are_named() -> None:
    with pytest.raises(RecipeError, match='no device "h10"') as caught:
        find_device("h10")
    assert "h100" in str(caught.value)
    for question, words in (
        (asked.Question(), "--params or --preset"),
        (asked.Question(params="1B", preset="nano-1m"), "one of them only"),
        (asked.Question(preset="nano-1"), 'no preset "nano-1"'),
        (asked.Question(params="1B", mfu=1.5), "mfu is 1.5"),
        (asked.Question(params="1B", devices=0), "devices is 0"),
        (asked.Question(params="1B", batch_tokens=5000), "not a number of rows"),
        (asked.Question(params="1B", length=0), "--length is 0"),
    ):
        with pytest.raises(RecipeError) as failed:
            asked.plan_size(question)
        assert words in str(failed.value)


def test_a_deadline_asks_for_whole_servers() -> None:
    answer = asked.plan_size(
        asked.Question(params="3B", tokens="1T", deadline="10d", device="h100", unique_tokens="250B")
    )
    [plan] = answer["plans"]
    assert plan["deadline"]["devices"] == plan["devices"] and plan["devices"] % 8 == 0
    assert plan["seconds"] <= 10 * 86_400
    assert plan["data"]["epochs"] == 4
    assert "read 4 times" in asked.as_text(answer)
    json.dumps(answer)


def test_the_stages_of_a_recipe_are_counted() -> None:
    loaded = load_recipe("quickstart")
    stages = {stage.name: stage for stage in stage_plans(loaded.recipe.stages)}
    pretrain = stages["pretrain"]
    assert pretrain.config is not None
    spec: Any = loaded.recipe.stages["pretrain"]
    assert pretrain.tokens == spec.max_steps * spec.rows_per_step * spec.sequence_length
    assert stages["sft"].config is None and "num_train_epochs" in stages["sft"].reason
    assert stages["grpo"].model == spec.model
    assert stages["grpo"].sampled > 0


def test_a_recipes_plan_adds_up() -> None:
    answer = asked.plan_recipe("quickstart", asked.Question(device="rtx4090", price=1.0))
    known = [stage["seconds"] for stage in answer["stages"] if stage["seconds"]]
    assert answer["total"]["seconds"] == pytest.approx(sum(known))
    assert answer["total"]["cost_usd"] == pytest.approx(sum(known) / 3600)
    assert answer["total"]["unknown"] == ["sft"]
    assert "not known yet" in asked.as_text(answer)


def test_every_device_is_whole() -> None:
    for name, device in DEVICES.items():
        assert name == device.name and device.source
        assert device.network <= device.link and device.per_node > 0


def test_depth_is_computed_from_one_and_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: ModelConfig, training: dict[str, Any], length: int) -> dict[str, Any]:
        return {"step": 1.0 + 0.5 * model.num_hidden_layers, "tokens": 512, "peak": 100 + model.num_hidden_layers}

    monkeypatch.setattr(measure, "_run", run)
    model = preset("nano-5m")
    speed = measure.measure_speed(model, {}, length=64)
    assert speed.step_seconds == pytest.approx(1.0 + 0.5 * 6)
    assert speed.peak_bytes == 106
    assert speed.flops == pytest.approx(model.flops_per_token(64) * 512 / 4.0)


def test_a_machine_is_timed_for_real() -> None:
    model = preset("nano-1m", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    speed = measure.measure_speed(model, {"per_device_train_batch_size": 2}, length=32)
    assert speed.tokens == 64
    assert 0 < speed.step_seconds < 5
    assert 0 < speed.peak_bytes < 2e9
