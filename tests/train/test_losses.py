"""From a packed batch to the objectives: each against the same thing computed document by document."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from training_toys import LENGTH, VOCAB, tiny_model

from luopan.errors import TrainingError
from luopan.model import head
from luopan.model.decoder import Decoder
from luopan.objectives.causal_lm import causal_lm
from luopan.objectives.policy import grpo
from luopan.objectives.preference import dpo
from luopan.tokens.batch import Doc, collate
from luopan.train.losses import causal_lm_loss, policy_loss, preference_loss, sequence_logprobs, token_scores


def documents(**fields) -> list[Doc]:
    """Four documents; the first `prompt` tokens of each are not trained."""
    generator = torch.Generator().manual_seed(1)
    docs = []
    for n, (length, prompt) in enumerate([(6, 2), (9, 1), (5, 3), (10, 4)]):
        ids = torch.randint(0, VOCAB, (length,), generator=generator).tolist()
        old = torch.randn(length, generator=generator).sub(3).tolist()
        docs.append(
            Doc(
                ids,
                [-100] * prompt + ids[prompt:],
                per_token={"old_logprobs": old, "reference_logprobs": [x + 0.1 for x in old]},
                fields={name: values[n] for name, values in fields.items()},
            )
        )
    return docs


def packed(docs: list[Doc]):
    return collate([docs[:2], docs[2:]], LENGTH, 0)


def scores_alone(model: Decoder, doc: Doc, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of a document's trained tokens from a forward pass of that document alone."""
    ids = torch.tensor([doc.input_ids])
    logprobs = F.log_softmax(model(ids)[0, :-1] / temperature, -1)
    trained = torch.tensor(doc.labels[1:]) != -100
    return logprobs.gather(1, ids[0, 1:, None])[:, 0][trained]


def test_causal_lm_is_the_sum_over_documents() -> None:
    model, docs = tiny_model(), documents()
    term = causal_lm_loss(model, packed(docs))
    expected = torch.cat([scores_alone(model, doc) for doc in docs])
    assert float(term.weight) == len(expected) == 4 + 8 + 2 + 6
    torch.testing.assert_close(term.total, -expected.sum())


def test_causal_lm_equals_transformers_loss() -> None:
    """The same sum as the Hugging Face convention gives: labels aligned, shifted inside, -100 left out."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    model, (doc, *_) = tiny_model(), documents()
    logits = model(torch.tensor([doc.input_ids]))
    theirs = ForCausalLMLoss(logits, torch.tensor([doc.labels]), VOCAB)
    term = causal_lm_loss(model, collate([[doc]], LENGTH, 0))
    torch.testing.assert_close(term.total / term.weight, theirs)


def test_the_loss_and_its_gradients_are_those_of_all_logits_at_once(monkeypatch) -> None:
    monkeypatch.setattr(head, "piece_rows", lambda vocab, device: 3)
    pieces, whole = tiny_model(), tiny_model()
    batch = packed(documents())
    term = causal_lm_loss(pieces, batch, z_loss_coef=0.01)
    index, targets, _ = batch.targets()
    expected = causal_lm(whole(batch.input_ids, layout=batch.layout).flatten(0, 1)[index], targets, z_loss_coef=0.01)
    term.total.backward()
    expected.total.backward()
    torch.testing.assert_close(term.total, expected.total)
    assert float(term.weight) == float(expected.weight) == targets.numel() > 3
    torch.testing.assert_close(term.metrics["z_loss"][0], expected.metrics["z_loss"][0])
    for a, b in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_sequence_logprobs() -> None:
    model, docs = tiny_model(), documents()
    expected = torch.stack([scores_alone(model, doc).sum() for doc in docs])
    torch.testing.assert_close(sequence_logprobs(model, packed(docs)), expected)


def test_places_are_where_the_scored_tokens_stand() -> None:
    batch = packed(documents())
    scores = token_scores(tiny_model(), batch)
    assert (batch.labels.flatten()[scores.places] != -100).all()
    assert torch.equal(batch.document_ids.flatten()[scores.places], scores.document)
    assert len(scores.places) == int((batch.labels != -100).sum())


def test_preference_pairs_are_found_wherever_they_stand() -> None:
    model = tiny_model()
    docs = documents(pair=[7, 3, 3, 7], is_chosen=[False, True, False, True], reference_logprob=[-5.0, -6, -7, -8])
    term = preference_loss(model, packed(docs), beta=0.2, nll_coef=0.5)
    a, b, c, d = (scores_alone(model, doc).sum() for doc in docs)
    references = torch.tensor([-6.0, -8]), torch.tensor([-7.0, -5])
    expected = dpo(torch.stack([b, d]), torch.stack([c, a]), *references, beta=0.2).total - 0.5 * (b / 8 + d / 6)
    torch.testing.assert_close(term.total, expected)
    assert float(term.weight) == 2


@pytest.mark.parametrize(
    ("pair", "is_chosen"),
    [([0, 0, 1, 2], [True, False, True, False]), ([0, 0, 1, 1], [True, True, True, False])],
)
def test_a_torn_pair_is_an_error(pair: list[int], is_chosen: list[bool]) -> None:
    docs = documents(pair=pair, is_chosen=is_chosen, reference_logprob=[0.0] * 4)
    with pytest.raises(TrainingError, match="not whole"):
        preference_loss(tiny_model(), packed(docs), beta=0.1)


def test_an_answer_without_tokens_is_an_error() -> None:
    docs = documents(pair=[0, 0, 1, 1], is_chosen=[True, False] * 2, reference_logprob=[0.0] * 4)
    docs[1] = Doc(docs[1].input_ids, [-100] * 9, per_token=docs[1].per_token, fields=docs[1].fields)
    with pytest.raises(TrainingError, match="no trained token"):
        preference_loss(tiny_model(), packed(docs), beta=0.1)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_policy_columns_reach_the_right_tokens(loss_type: str, beta: float) -> None:
    model = tiny_model()
    docs = documents(advantage=[1.0, -0.5, 2.0, -1.5])
    length = 20 if loss_type == "dr_grpo" else None
    knobs = {"epsilon": 0.2, "beta": beta, "loss_type": loss_type, "max_completion_length": length}
    term = policy_loss(model, packed(docs), temperature=0.7, entropy=True, **knobs)
    parts = [scores_alone(model, doc, 0.7) for doc in docs]
    counts = [len(part) for part in parts]

    def column(name: str) -> torch.Tensor:
        values = [torch.tensor(doc.per_token[name])[torch.tensor(doc.labels) != -100] for doc in docs]
        return torch.cat(values)

    sequence = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    expected = grpo(
        torch.cat(parts),
        column("old_logprobs"),
        torch.tensor([1.0, -0.5, 2.0, -1.5])[sequence],
        sequence,
        4,
        reference_logprobs=column("reference_logprobs") if beta else None,
        **knobs,
    )
    torch.testing.assert_close(term.total, expected.total)
    assert float(term.weight) == float(expected.weight)
    assert 0 < float(term.metrics["entropy"][0] / term.metrics["entropy"][1]) < torch.log(torch.tensor(float(VOCAB)))


def test_tokens_may_have_advantages_of_their_own() -> None:
    model, given = tiny_model(), [1.0, -0.5, 2.0, -1.5]
    docs = documents(advantage=given)
    own = [replace(doc, per_token={**doc.per_token, "advantages": [a] * len(doc)}) for doc, a in zip(docs, given)]
    same = policy_loss(model, packed(own), token_advantages=True)
    torch.testing.assert_close(same.total, policy_loss(model, packed(docs)).total)
    own[0].per_token["advantages"][-1] = 5.0  # type: ignore[index]
    assert abs(float(policy_loss(model, packed(own), token_advantages=True).total - same.total)) > 0.01


def test_another_samplers_weight_reaches_the_right_tokens() -> None:
    model, given = tiny_model(), [1.0, -0.5, 2.0, -1.5]
    docs = documents(advantage=given)
    factors = [1.5 if place % 2 else 0.5 for place in range(LENGTH)]  # exp(old - sampled), by place in the document
    sampled = [[old - math.log(factor) for old, factor in zip(doc.per_token["old_logprobs"], factors)] for doc in docs]
    told = [replace(doc, per_token={**doc.per_token, "sampled_logprobs": s}) for doc, s in zip(docs, sampled)]
    term = policy_loss(model, packed(told), importance_cap=1.25)
    # The weight is a factor of the token's loss, as the advantage is.
    weighed = [[a * min(factor, 1.25) for factor in factors[: len(doc)]] for doc, a in zip(docs, given)]
    weighed_docs = [replace(doc, per_token={**doc.per_token, "advantages": w}) for doc, w in zip(docs, weighed)]
    torch.testing.assert_close(term.total, policy_loss(model, packed(weighed_docs), token_advantages=True).total)
    capped, count = term.metrics["importance_capped"]
    odd = sum(label != -100 and place % 2 == 1 for doc in docs for place, label in enumerate(doc.labels))
    assert (float(capped), float(count)) == (odd, sum(label != -100 for doc in docs for label in doc.labels))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TrainingError, match="lacks sampled_logprobs"):
        policy_loss(tiny_model(), packed(documents(advantage=[1.0] * 4)), importance_cap=2.0)
    with pytest.raises(TrainingError, match="lacks advantage"):
        policy_loss(tiny_model(), packed(documents()), epsilon=0.2)
    with pytest.raises(TrainingError, match="lacks pair, is_chosen, reference_logprob"):
        functools.partial(preference_loss, beta=0.1)(tiny_model(), packed(documents()))
