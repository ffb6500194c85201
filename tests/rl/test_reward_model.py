"""A trained reward model as a user has it: scored by us, by transformers on padded batches, and by TRL's own loss."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from trl import RewardTrainer

from luopan.corpus.skills import generate_cases
from luopan.errors import DataError, ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.reward import (
    add_score,
    family_of,
    load_reward,
    reward_flops_per_token,
    reward_parameters,
    save_reward,
    scores,
)
from luopan.objectives.reward import bradley_terry
from luopan.rl.reward_model import load_reward_model, score
from luopan.tokens.batch import collate
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.example import Example
from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer
from luopan.train.reward_loss import document_scores, reward_loss

SHAPE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"attention_bias": True, "attention_output_bias": False},
    "qwen3": {"qk_norm": True, "tie_word_embeddings": False},
    "smollm3": {"no_rope_layer_interval": 2},
    "qwen3_moe": {"qk_norm": True, "num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_experts": 4, "num_experts_per_tok": 2},
}


def reward_model(**shape: Any) -> Decoder:
    model = Decoder(ModelConfig(**SHAPE | shape)).eval()
    add_score(model, seed=1)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_alike_in_transformers_padded_left_or_right(family: str, tmp_path: Path) -> None:
    model = reward_model(**FAMILIES[family])
    save_reward(model, tmp_path, pad_token_id=0, eos_token_id=1)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.model_type == family and theirs.config.num_labels == 1
    texts = [list(range(5, 5 + n)) for n in (3, 12, 6)]
    with torch.no_grad():
        ours = document_scores(model, collate([[Example(text, text) for text in texts]], 24, 0))
        again = document_scores(load_reward(tmp_path), collate([[Example(text, text)] for text in texts], 12, 0))
        for side in (False, True):
            padding = [[0] * (12 - len(text)) for text in texts]
            ids = torch.tensor([p + t if side else t + p for t, p in zip(texts, padding)])
            peer = theirs(ids, attention_mask=(ids != 0).long()).logits.squeeze(-1)
            assert (ours - peer).abs().max() < 1e-5 and (again - peer).abs().max() < 1e-5


def test_what_transformers_wrote_is_read(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_labels=1, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    theirs = transformers.LlamaForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "one")
    text = list(range(5, 15))
    with torch.no_grad():
        ours = document_scores(load_reward(tmp_path / "one"), collate([[Example(text, text)]], 10, 0))
        assert (ours - theirs(torch.tensor([text])).logits[0]).abs().max() < 1e-5
    config.num_labels = 3
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match=r"score.weight is \[3, 32\], one label wants"):
        load_reward(tmp_path / "three")
    with pytest.raises(ModelError, match="is a reward model: it gives a text a number"):
        hf.load(tmp_path / "one")


def test_a_shape_without_a_classifier_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ModelError, match="no family of transformers has a sequence classifier"):
        family_of(ModelConfig(**SHAPE, attention_sinks=True))
    assert family_of(ModelConfig(**SHAPE)) == "llama"


@pytest.mark.parametrize("tied", [True, False])
def test_size_and_cost_are_those_without_a_head(tied: bool) -> None:
    model = reward_model(tie_word_embeddings=tied)
    assert reward_parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())
    head = 6 * SHAPE["vocab_size"] * SHAPE["hidden_size"]
    assert reward_flops_per_token(model.config, 10) == model.config.flops_per_token(10) - head


def test_rewards_are_fp32_under_autocast() -> None:
    states = torch.randn(4096, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = scores(reward_model(), states)
    assert found.dtype == torch.float32 and len(found.unique()) > 4000  # bf16 tells some 1300 apart


def trl_loss(chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | None, coefficient: float) -> Any:
    """TRL's own `RewardTrainer.compute_loss` on a model that answers with these rewards."""
    gather = lambda tensor: tensor  # noqa: E731 - there is one process
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=coefficient or None),
        accelerator=SimpleNamespace(gather_for_metrics=gather, gather=gather),
        maybe_activation_offload_context=None,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs: dict[str, Any] = {"attention_mask": torch.ones(1)} | ({} if margin is None else {"margin": margin})
    model = lambda **_: SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])  # noqa: E731
    return RewardTrainer.compute_loss(trainer, model, inputs), trainer._metrics["train"]


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("coefficient", [0.0, 0.01, 1.0])
def test_loss_gradient_and_metrics_are_those_of_trl(margins: bool, coefficient: float) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(17, generator=generator, requires_grad=True) for _ in range(2))
    margin = torch.rand(17, generator=generator) if margins else None
    term = bradley_terry(chosen, rejected, margin=margin, center_rewards_coefficient=coefficient)
    ours = term.total / term.weight
    theirs, metrics = trl_loss(chosen, rejected, margin, coefficient)
    assert abs((ours - theirs).item()) < 1e-6
    mine = torch.autograd.grad(ours, [chosen, rejected])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(mine, torch.autograd.grad(theirs, [chosen, rejected])))
    means = {name: float(total / count) for name, (total, count) in term.metrics.items()}
    assert means["rewards/accuracies"] == pytest.approx(metrics["accuracy"][0])
    assert means["rewards/margins"] == pytest.approx(metrics["margin"][0], abs=1e-6)


def test_the_routers_counts_reach_a_model_with_experts() -> None:
    model = reward_model(**FAMILIES["mixtral"]).train()
    pair = [Example([n, 2, 3], [-100, 2, 3], fields={"pair": 0, "is_chosen": n == 4}) for n in (4, 5)]
    reward_loss(model, collate([pair], 6, 0)).total.backward()
    assert model.expert_counts is not None and model.expert_counts.sum() == 2 * 6 * 2  # layers x tokens x chosen


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a real tokenizer and template, as a stage leaves it."""
    texts = [message["content"] for case in generate_cases("talk", 60, 0) for message in case.conversation()]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=384, min_frequency=1))
    model = reward_model(vocab_size=len(tokenizer))
    folder = tmp_path_factory.mktemp("reward")
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    save_reward(model, folder / "model", pad_token_id=pad, eos_token_id=eos)
    save_tokenizer(tokenizer, folder / "model")
    return folder


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_score_is_what_transformers_users_get(trained: Path) -> None:
    model, tokenizer = load_reward_model(trained, device="cpu")
    talks = [talk("Hi!", "Hello."), talk("Who?", "Me, of course, who else?"), talk("Hi!", "Go away.")]
    ours = score(model, tokenizer, talks)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "model")
    batch = their_tokenizer.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
    with torch.no_grad():
        peer = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
    assert torch.tensor(ours) == pytest.approx(peer, abs=1e-5)
    assert ours == pytest.approx([score(model, tokenizer, [one])[0] for one in talks], abs=1e-5)  # packed or alone
    assert len({round(value, 4) for value in ours}) == 3


def test_what_cannot_be_scored_is_named(trained: Path) -> None:
    model, tokenizer = load_reward_model(trained / "model", device="cpu")
    with pytest.raises(DataError, match="conversation 1: a conversation that is scored ends with"):
        score(model, tokenizer, [talk("a", "b"), talk("a", "b")[:1]])
    with pytest.raises(DataError, match="longer than max_length 64"):
        score(model, tokenizer, [talk("a", "b " * 200)])
    with pytest.raises(DataError, match="no reward model"):
        score(Decoder(model.config), tokenizer, [talk("a", "b")])
