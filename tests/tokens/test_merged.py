"""Documents that begin alike, merged into one row: every distinct token computed once, every document trained as if it
stood alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.merged import collate_merged
from luopan.train.losses import policy_loss, token_scores

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gqa, qk-norm": {"num_key_value_heads": 2, "qk_norm": True},
    "window": {"sliding_window": 5, "full_attention_interval": 2},
    "sinks": {"sliding_window": 5, "attention_sinks": True, "full_attention_interval": 2},
    "softcap": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
}
QUESTION, OTHER = [2, 3, 4], [2, 3, 9, 9]
# One of each kind: the trunk, equal to it, its beginning, one that leaves it late, one that leaves it at once, two that
# are equal to each other; another prompt that begins alike, with a single answer.
ANSWERS = [
    (QUESTION, [5, 6, 7, 8, 1]), (QUESTION, [5, 6, 7, 8, 1]), (QUESTION, [5, 6]), (QUESTION, [5, 6, 7, 9, 9, 1]),
    (OTHER, [5, 6, 7, 8, 1]), (QUESTION, [8, 1]), (QUESTION, [5, 8, 1]), (QUESTION, [5, 8, 1]),
]  # fmt: skip
DISTINCT = 3 + 5 + 3 + 2 + 2 + (4 + 5)


def model(shape: str = "plain") -> Decoder:
    config = ModelConfig(
        vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3, **SHAPES[shape],
    )  # fmt: skip
    made = Decoder(config)
    made.reset_parameters(0)
    return made


def documents() -> list[Doc]:
    """Equal answers differ in their advantages and in what they were sampled with."""
    random = np.random.default_rng(0)
    return [
        Doc(
            [*prompt, *answer],
            [-100] * len(prompt) + answer,
            {
                "old_logprobs": random.uniform(-3, -1, len(prompt) + len(answer)).tolist(),
                "advantages": random.normal(size=len(prompt) + len(answer)).tolist(),
            },
            {"number": number},
        )
        for number, (prompt, answer) in enumerate(ANSWERS)
    ]


def trained(policy: Decoder, batch: Batch, **knobs: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    policy.zero_grad()
    term = policy_loss(policy, batch, temperature=0.7, token_advantages=True, **knobs)
    term.total.backward()
    gradients = [parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None]
    return term.total.detach(), torch.cat(gradients), float(term.weight)


def test_every_distinct_token_is_computed_once_and_every_document_is_whole() -> None:
    batch = collate_merged(documents())
    assert batch.input_ids.shape == batch.position_ids.shape == (1, DISTINCT) and batch.num_tokens == DISTINCT
    assert batch.num_documents == 8 and batch.per_document["number"].tolist() == list(range(8))
    sources, ids, places = batch.targets()
    document = batch.document_ids.flatten()[places]
    for number, (prompt, answer) in enumerate(ANSWERS):
        own = document == number
        assert ids[own].tolist() == answer
        assert batch.input_ids.flatten()[sources[own]].tolist() == [prompt[-1], *answer[:-1]]
        assert batch.position_ids.flatten()[sources[own]].tolist() == [
            *range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        ]
    once = batch.once
    assert once is not None and len(once.first) == DISTINCT - 3 - 4  # all but what stands in the prompts
    assert torch.equal(ids[once.first][once.of], ids) and torch.equal(sources[once.first][once.of], sources)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_scores_are_those_of_each_document_alone(shape: str) -> None:
    policy, docs = model(shape), documents()
    batch = collate_merged(docs)
    scores = token_scores(policy, batch, 0.7, entropy=True)
    for number, doc in enumerate(docs):
        alone = token_scores(policy, collate([[doc]], len(doc), 0), 0.7, entropy=True)
        torch.testing.assert_close(scores.logprobs[scores.document == number], alone.logprobs)
        assert scores.entropies is not None and alone.entropies is not None
        torch.testing.assert_close(scores.entropies[scores.document == number], alone.entropies)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_loss_and_gradients_are_those_of_documents_alone(shape: str, loss_type: str) -> None:
    policy, docs = model(shape), documents()
    parts = [trained(policy, collate([[doc]], len(doc), 0), loss_type=loss_type) for doc in docs]
    total, gradients, weight = trained(policy, collate_merged(docs), loss_type=loss_type)
    assert weight == sum(part[2] for part in parts)
    torch.testing.assert_close(total, torch.stack([part[0] for part in parts]).sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, torch.stack([part[1] for part in parts]).sum(0), rtol=1e-3, atol=1e-5)


def test_documents_without_a_prompt_in_common_stand_apart() -> None:
    docs = [Doc([4, 5, 6], [4, 5, 6]), Doc([7, 5, 6], [7, 5, 6]), Doc([4, 5, 1], [4, 5, 1])]
    batch = collate_merged(docs)
    assert batch.num_tokens == 3 + 3 + 1
    sources, ids, _ = batch.targets()
    assert ids.tolist() == [5, 6, 5, 6, 5, 1]
    assert batch.input_ids.flatten()[sources].tolist() == [4, 5, 7, 5, 4, 5]


def test_a_batch_that_moves_keeps_what_it_knows() -> None:
    batch = collate_merged(documents())
    moved = batch.to("cpu")
    assert moved.once is not None and batch.once is not None
    assert torch.equal(moved.once.of, batch.once.of) and torch.equal(moved.targets().sources, batch.targets().sources)
    assert moved.num_tokens == batch.num_tokens


@pytest.mark.parametrize("multiple", [1, 64])
def test_padding_at_the_end_changes_nothing(multiple: int) -> None:
    docs = documents()
    plain = collate_merged(docs)
    padded = collate_merged(docs, 7, multiple=multiple)
    length = plain.input_ids.shape[1]
    assert padded.input_ids.shape[1] == length + -length % multiple
    assert bool((padded.input_ids[0, length:] == 7).all())
    assert bool((padded.position_ids[0, length:] == 0).all())
    assert (padded.num_tokens, padded.num_targets) == (plain.num_tokens, plain.num_targets)
    torch.testing.assert_close(padded.position_ids[:, :length], plain.position_ids)
    policy = model(next(iter(SHAPES)))
    one, other = (trained(policy, batch, loss_type="dapo") for batch in (plain, padded))
    assert one[2] == other[2]
    torch.testing.assert_close(one[0], other[0])
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-6)
