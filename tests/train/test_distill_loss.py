"""From a packed batch to distillation: the same as document by document, whichever way the teacher is known."""

from __future__ import annotations

import functools

import pytest
import torch
from training_toys import LENGTH, VOCAB, tiny_model

from luopan.errors import TrainingError
from luopan.model import head
from luopan.model.decoder import Decoder
from luopan.objectives.distill import generalised_jsd, top_k_jsd
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.distill_loss import distill_loss, sampled_distill_loss, top_columns

K = 3


def teacher_model() -> Decoder:
    model = tiny_model()
    model.reset_parameters(77)
    return model.eval().requires_grad_(False)


def logits_alone(model: Decoder, doc: Doc) -> torch.Tensor:
    """[T, V] of a document alone."""
    return model(torch.tensor([list(doc.input_ids)]))[0]


def documents() -> list[Doc]:
    """Three documents with the teacher's likeliest tokens."""
    generator = torch.Generator().manual_seed(3)
    docs = []
    for length, prompt in [(6, 2), (9, 1), (7, 4)]:
        ids = torch.randint(0, VOCAB, (length,), generator=generator).tolist()
        bare = Doc(ids, [-100] * prompt + ids[prompt:])
        with torch.no_grad():
            values, top = logits_alone(teacher_model(), bare).log_softmax(-1).topk(K)
        shift = torch.cat([top[:1], top[:-1]]), torch.cat([values[:1], values[:-1]])  # at the token they are about
        docs.append(Doc(ids, bare.labels, per_token=top_columns(*shift)))
    return docs


def packed(docs: list[Doc]) -> Batch:
    return collate([docs[:2], docs[2:]], LENGTH, 0)


def alone(student: Decoder, docs: list[Doc], k: int | None = None, **knobs: float) -> torch.Tensor:
    total = torch.zeros(())
    for doc in docs:
        trained = [t - 1 for t in range(1, len(doc)) if doc.labels[t] != -100]
        own, theirs = logits_alone(student, doc)[trained], logits_alone(teacher_model(), doc)[trained]
        if k is None:
            total = total + generalised_jsd(own, theirs, **knobs).sum()  # type: ignore[arg-type]
        else:
            values, ids = theirs.log_softmax(-1).topk(k)
            total = total + top_k_jsd(own, ids, values, **knobs).sum()  # type: ignore[arg-type]
    return total


def gradient(total: torch.Tensor, model: Decoder) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_teacher_in_memory(beta: float, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "piece_rows", lambda vocab, device: 4)
    student, docs = tiny_model(), documents()
    term = distill_loss(student, packed(docs), teacher=teacher_model(), beta=beta, temperature=temperature)
    expected = alone(student, docs, beta=beta, temperature=temperature)
    assert float(term.weight) == 4 + 8 + 3
    torch.testing.assert_close(term.total, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(term.total, student), gradient(expected, student), rtol=1e-3, atol=1e-6)
    reverse = alone(student, docs, beta=1.0, temperature=temperature)
    assert float(term.metrics["reverse_kl"][0]) == pytest.approx(float(reverse.detach()), rel=1e-4)


def test_a_teacher_known_by_its_likeliest_tokens() -> None:
    student, docs = tiny_model(), documents()
    term = distill_loss(student, packed(docs), teacher=None, beta=0.4)
    expected = alone(student, docs, k=K, beta=0.4)
    torch.testing.assert_close(term.total, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(term.total, student), gradient(expected, student), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("wider", ["teacher", "student"])
def test_heads_of_one_tokenizer_may_be_padded_to_different_widths(wider: str) -> None:
    models = {"teacher": teacher_model(), "student": tiny_model()}
    docs = [Doc(d.input_ids, d.labels) for d in documents()]
    expected = alone(models["student"], docs, beta=0.5)
    weight = models[wider].embed_tokens.weight
    models[wider].embed_tokens.weight = torch.nn.Parameter(torch.cat([weight.detach(), torch.ones(5, weight.shape[1])]))
    term = distill_loss(models["student"], packed(docs), teacher=models["teacher"], beta=0.5)
    torch.testing.assert_close(term.total, expected, rtol=1e-5, atol=1e-6)


def test_logits_of_teacher_and_student_are_never_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "piece_rows", lambda vocab, device: 4)
    teacher, asked = teacher_model(), []
    whole = teacher.logits
    monkeypatch.setattr(teacher, "logits", lambda hidden: (asked.append(len(hidden)), whole(hidden))[1])
    distill_loss(tiny_model(), packed(documents()), teacher=teacher, beta=0.5)
    assert asked == [4, 4, 4, 3]


def test_columns_missing_are_named() -> None:
    bare = [Doc(d.input_ids, d.labels) for d in documents()]
    with pytest.raises(TrainingError, match="teacher_id_0"):
        distill_loss(tiny_model(), packed(bare), teacher=None, beta=0.5)


def test_sampled_tokens() -> None:
    student = tiny_model()
    docs = [
        Doc(d.input_ids, d.labels, per_token={"old_logprobs": [-2.0] * len(d), "teacher_logprobs": [-3.0] * len(d)})
        for d in documents()
    ]
    term = sampled_distill_loss(student, packed(docs), temperature=1.3)
    found = []
    for doc in docs:
        trained = [t for t in range(1, len(doc)) if doc.labels[t] != -100]
        every = (logits_alone(student, doc) / 1.3).log_softmax(-1)
        found += [every[t - 1, doc.input_ids[t]] for t in trained]
    expected = torch.stack(found).sub(-2.0).exp().sum()  # -ratio * (-3 - -2)
    torch.testing.assert_close(term.total, expected, rtol=1e-5, atol=1e-6)


def test_nothing_trained_is_nothing() -> None:
    docs = [Doc(d.input_ids, [-100] * len(d), per_token=d.per_token) for d in documents()]
    loss = functools.partial(distill_loss, tiny_model(), packed(docs), beta=0.5)
    for teacher in (None, teacher_model()):
        term = loss(teacher=teacher)
        assert float(term.total.detach()) == 0.0 and float(term.weight) == 0.0
