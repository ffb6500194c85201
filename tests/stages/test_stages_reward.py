"""Reward models: TRL's loss, transformers' scores, the figures by hand, and one that learns."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from stage_toys import tiny_chat, workspace

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.errors import DataError, ModelError, RecipeError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.reward import add_score, load_reward, save_reward
from luopan.objectives.reward import bradley_terry
from luopan.recipe.reward_specs import RewardSpec
from luopan.stages.common import Chat, save_model
from luopan.stages.reward import Reward, calibration, check_ends, correlation
from luopan.tokens.batch import collate
from luopan.tokens.example import Example, share_prefix
from luopan.train.reward_loss import document_scores, last_tokens, reward_loss


def test_the_loss_by_hand_and_as_trl_has_it() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    term = bradley_terry(chosen, rejected)
    expected = torch.log1p(torch.exp(torch.tensor([-1.0, 2.0]))).sum()  # log(1 + e^-1) + log(1 + e^2)
    assert torch.allclose(term.total, expected) and term.weight == 2
    assert term.metrics["rewards/accuracies"][0] == 1  # of two
    margin = torch.tensor([0.5, 1.0])
    with_all = bradley_terry(chosen, rejected, margin=margin, center_rewards_coefficient=0.1)
    # The lines of TRL's RewardTrainer.compute_loss, over means.
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    theirs += 0.1 * torch.mean((chosen + rejected) ** 2)
    assert torch.allclose(with_all.total / with_all.weight, theirs)
    with pytest.raises(RecipeError, match="must not be negative"):
        bradley_terry(chosen, rejected, center_rewards_coefficient=-1.0)


def tiny(**more: Any) -> Decoder:
    config = ModelConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, **more,
    )  # fmt: skip
    return Decoder(config)


@pytest.mark.parametrize(
    "shape", [{}, {"tie_word_embeddings": False}, {"qk_norm": True}], ids=["llama", "untied", "qwen3"]
)
def test_transformers_gives_the_same_scores(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = tiny(**shape).eval()
    add_score(model, seed=1)
    save_reward(model, tmp_path, pad_token_id=0, eos_token_id=1)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    texts = [list(range(5, 5 + n)) for n in (3, 9, 6)]
    ids = torch.tensor([text + [0] * (9 - len(text)) for text in texts])
    with torch.no_grad():
        peer = theirs(ids, attention_mask=(ids != 0).long()).logits.squeeze(-1)
        packed = document_scores(model, collate([[Example(text, text) for text in texts]], 20, 0))
        again = document_scores(load_reward(tmp_path), collate([[Example(text, text)] for text in texts], 9, 0))
    assert (packed - peer).abs().max() < 1e-5 and (again - peer).abs().max() < 1e-5
    hf.save(tiny(), tmp_path / "plain")
    with pytest.raises(ModelError, match="no reward model"):
        load_reward(tmp_path / "plain")


def test_the_last_token_is_found_by_position() -> None:
    docs = share_prefix([Example([1, 2, 3, 4], [-100, -100, 3, 4]), Example([1, 2, 7], [-100, -100, 7])])
    batch = collate([[*docs, Example([0, 0], [0, 0])], [Example([5], [5])]], 9, 0)  # ids that equal padding
    assert last_tokens(batch).tolist() == [3, 4, 6, 9]


def test_shared_prompts_and_accumulation_change_nothing() -> None:
    model = tiny()
    add_score(model)
    pairs = []
    for n in range(8):
        prompt = list(range(10 + n, 15 + n))
        for place, answer in enumerate(([1, 2, 3 + n], [4, 5])):
            ids = [*prompt, *answer]
            labels = [-100] * 5 + answer
            pairs.append(Example(ids, labels, fields={"pair": n, "is_chosen": place == 0, "margin": 0.1 * n}))
    loss = partial(reward_loss, center_rewards_coefficient=0.1)

    def gradient(rows: list[list[Example]], size: int) -> torch.Tensor:
        model.zero_grad()
        for start in range(0, len(rows), size):
            loss(model, collate(rows[start : start + size], 16, 0)).total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    apart = [[pairs[i], pairs[i + 1]] for i in range(0, 16, 2)]
    whole = gradient(apart, 8)
    assert (gradient(apart, 2) - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (gradient([share_prefix(both) for both in apart], 4) - whole).abs().max() < 1e-4 * whole.abs().max()


def test_calibration_and_correlation_by_hand() -> None:
    sure = 20.0  # s(20) is 1 but for 2e-9
    points, error = calibration([sure, sure, 0.0, 0.0], [0.0, 0.0, 0.0, sure])
    # three pairs surer than anything, two of them right; one at 0.5, ranked wrong (a tie is not right)
    assert [(round(c, 6), round(r, 6), n) for c, r, n in points] == [(0.5, 0.0, 1), (1.0, 0.666667, 3)]
    assert error == pytest.approx((1 * 0.5 + 3 / 3) / 4)
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert correlation([1, 1], [1, 2]) is None


def test_a_spec_says_where_its_pairs_come_from() -> None:
    base = {"kind": "reward", "model": "sft", "max_length": 64, "learning_rate": 1e-3, "max_steps": 1}
    with pytest.raises(ValueError, match="exactly one of pairs and data"):
        RewardSpec(**base)
    with pytest.raises(ValueError, match="flaw has no effect"):
        RewardSpec(**base, data=({"path": "x.jsonl"},), flaw="rude")
    with pytest.raises(ValueError, match="replicas"):
        RewardSpec(**base, pairs=3, parallel="full_shard")


def source(folder: Path, chat: Chat) -> Artifact:
    folder.mkdir()
    save_model(chat, folder)
    write_manifest(folder, build_manifest(folder, kind="sft", name="sft", identity="x"))
    return Artifact(folder)


@pytest.mark.parametrize("margins", [False, True])
def test_a_stage_learns_to_tell_rude_from_polite(tmp_path: Path, margins: bool) -> None:
    data: dict[str, Any] = {"pairs": 150}
    if margins:
        rows = [
            {"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": f"No, {i}, you fool!", "margin": 0.5}
            for i in range(120)
        ]
        file = tmp_path / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"data": ({"path": str(file)},)}
    spec = RewardSpec(
        kind="reward", model="sft", max_length=96, learning_rate=3e-3, max_steps=30, per_device_train_batch_size=4,
        test_pairs=40, center_rewards_coefficient=0.01, **data,
    )  # fmt: skip
    out = workspace(tmp_path / "reward")
    metrics = Reward.run(spec, {"model": (source(tmp_path / "sft", tiny_chat(context=256)),)}, out)
    assert metrics["after"]["held-out pairs ranked right"] > 0.9 > metrics["before"]["held-out pairs ranked right"]
    report = json.loads((out.path / "stage_report.json").read_text())
    assert [picture["title"] for picture in report["pictures"]][:1] == ["Can its confidence be believed?"]
    model = load_reward(out.path / "model")
    assert model.get_parameter("score.weight").shape == (1, 32)


def rude(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": f"No, {i}, you fool!", **more}
        for i in range(count)
    ]


def spec_of(folder: Path, rows: list[dict[str, Any]]) -> RewardSpec:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RewardSpec(
        kind="reward", model="sft", max_length=96, learning_rate=3e-3, max_steps=1, test_pairs=4,
        data=({"path": str(file)},),
    )  # fmt: skip


def test_pairs_that_teach_nothing_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    same = [{"prompt": f"Again {i}?", "chosen": "Yes.", "rejected": "Yes."} for i in range(3)]
    silent = [{"prompt": "Well?", "chosen": "Yes.", "rejected": " "}]
    out = workspace(tmp_path / "reward")
    chat = tiny_chat(context=256)
    metrics = Reward.run(spec_of(tmp_path, rude(20) + same + silent), {"model": (source(tmp_path / "sft", chat),)}, out)
    assert metrics["set_aside"] == 4
    report = json.loads((out.path / "stage_report.json").read_text())
    reasons = {entry["reason"]: entry["count"] for entry in report["set_aside"]}
    assert reasons["`chosen` and `rejected` are the same"] == 3 and len(reasons) == 2
    model = load_reward(out.path / "model")
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_what_could_not_be_written_or_read_elsewhere_is_refused_before_training(tmp_path: Path) -> None:
    chat = tiny_chat(context=256)
    odd = Decoder(chat.model.config.model_copy(update={"attention_sinks": True}))
    sinks = source(tmp_path / "sinks", Chat(odd, chat.tokenizer, chat.device))
    out = workspace(tmp_path / "reward")
    with pytest.raises(ModelError, match="no family of transformers has a sequence classifier"):
        Reward.run(spec_of(tmp_path, rude(20)), {"model": (sinks,)}, out)
    ends = Example([5, chat.pad_id], [5, chat.pad_id])
    with pytest.raises(DataError, match="which is the padding token too"):
        check_ends([[Example([5, 6], [5, 6]), ends]], chat)
    check_ends([[Example([chat.pad_id, 6], [5, 6])]], chat)  # elsewhere it may stand
    assert not (out.path / "checkpoints").exists()
