from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from luopan.errors import DataError
from luopan.tokens.batch import Doc, collate
from luopan.tokens.example import IGNORE, Example, share_prefix

PAD = 9


def doc(ids: list[int], trained: list[int] | None = None, **fields: float) -> Doc:
    """A document whose tokens at the positions `trained` (all, when left out) carry labels."""
    keep = range(len(ids)) if trained is None else trained
    return Doc(ids, [t if i in keep else IGNORE for i, t in enumerate(ids)], fields=fields)


def test_a_batch_by_hand() -> None:
    batch = collate([[doc([1, 2, 3]), doc([4, 5], [1])], [doc([6])]], 6, PAD)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, PAD], [6, PAD, PAD, PAD, PAD, PAD]]
    assert batch.labels.tolist() == [[1, 2, 3, -100, 5, -100], [6] + [-100] * 5]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6]
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, -1], [2] + [-1] * 5]
    assert (batch.num_documents, batch.num_tokens, batch.num_targets) == (3, 6, 3)
    index, ids, _ = batch.targets()
    assert index.tolist() == [0, 1, 3]  # 3 does not predict 4: another document; 6 is the first of its own
    assert ids.tolist() == [2, 3, 5]
    assert {t.dtype for t in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)} == {torch.int64}


def test_pad_equal_to_a_token_hides_nothing() -> None:
    plain = collate([[doc([1, 2, 7]), doc([7, 7])]], 8, PAD)
    same = collate([[doc([1, 2, 7]), doc([7, 7])]], 8, 7)
    assert same.labels.equal(plain.labels)
    assert same.document_ids.equal(plain.document_ids)
    assert (
        [t.tolist() for t in same.targets()]
        == [t.tolist() for t in plain.targets()]
        == [[0, 1, 3], [2, 7, 7], [1, 2, 4]]
    )


def test_targets_do_not_depend_on_packing() -> None:
    rng = np.random.default_rng(0)
    docs = []
    for _ in range(40):
        ids = rng.integers(0, 50, rng.integers(1, 12)).tolist()
        docs.append(doc(ids, [i for i in range(len(ids)) if rng.random() < 0.5]))
    alone = [collate([[d]], 12, PAD).targets()[1].tolist() for d in docs]
    rows = [docs[i : i + 4] for i in range(0, 40, 4)]
    packed = collate(rows, 48, PAD)
    assert packed.targets()[1].tolist() == [t for ids in alone for t in ids]
    index = packed.targets()[0]
    assert packed.input_ids.flatten()[index + 1].equal(packed.targets()[1])
    assert packed.document_ids.flatten()[index].equal(packed.document_ids.flatten()[index + 1])
    assert packed.num_targets == sum(d.num_trained for d in docs)


def test_values_of_tokens_and_documents() -> None:
    first = Doc(
        [1, 2], [1, 2], per_token={"old_logprobs": [0.0, -0.5]}, fields={"pair": 3, "advantage": 0.5, "good": True}
    )
    second = Doc(
        [3], [3], per_token={"old_logprobs": np.array([-2.0])}, fields={"pair": 4, "advantage": -1, "good": False}
    )
    batch = collate([[first, second]], 4, PAD)
    assert batch.per_token["old_logprobs"].tolist() == [[0.0, -0.5, -2.0, 0.0]]
    assert batch.per_document["pair"].dtype == torch.int64
    assert batch.per_document["pair"].tolist() == [3, 4]
    assert batch.per_document["advantage"].tolist() == [0.5, -1.0]
    assert batch.per_document["good"].tolist() == [True, False]
    with pytest.raises(AssertionError, match="differ in fields"):
        collate([[doc([1], pair=1), doc([1])]], 4, PAD)


def test_layout_keeps_documents_apart() -> None:
    batch = collate([[doc([1, 2]), doc([3])], [doc([4, 5, 6])]], 4, PAD)
    seen = batch.layout.mask()
    assert seen[0, 0, :3, :3].tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert seen[1, 0, 2, :3].all()
    assert not seen[0, 0, :3, 3].any()


def test_moving_and_replacing() -> None:
    batch = collate([[doc([1, 2, 3])]], 4, PAD)
    moved = batch.to("cpu")
    assert moved.targets()[0].tolist() == [0, 1]
    assert moved.input_ids.equal(batch.input_ids)
    fewer = replace(batch, labels=torch.full_like(batch.labels, IGNORE))
    assert fewer.num_targets == 0  # nothing remembered of the old labels
    everywhere = replace(batch, labels=torch.ones_like(batch.labels))
    assert everywhere.targets()[0].tolist() == [0, 1]  # labels on padding teach nothing
    assert replace(collate([[doc([1])]], 4, PAD), labels=torch.ones(1, 4, dtype=torch.int64)).num_targets == 0
    meta = batch.to("meta")
    assert {meta.input_ids.device.type, meta.targets()[0].device.type} == {"meta"}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="row of 5 tokens does not fit 4") as caught:
        collate([[doc([1])], [doc([1, 2]), doc([1, 2, 3])]], 4, PAD)
    assert caught.value.where == "row 1"
    with pytest.raises(AssertionError, match="without tokens"):
        Example([], [])
    with pytest.raises(AssertionError, match="labels for"):
        Example([1, 2], [1])
    with pytest.raises(AssertionError, match="values of old"):
        Example([1, 2], [1, 2], per_token={"old": [1.0]})


def test_a_shared_prompt_by_hand() -> None:
    trunk, branch = share_prefix([doc([1, 2, 3, 4], [2, 3], good=True), doc([1, 2, 8, 9], [2, 3], good=False)])
    assert trunk == doc([1, 2, 3, 4], [2, 3], good=True)
    assert (branch.input_ids, branch.labels, branch.prefix) == ([8, 9], [8, 9], 2)
    assert branch.fields == {"good": False}
    assert branch.num_trained == 2
    batch = collate([[doc([5, 6], good=True), trunk, branch]], 10, PAD)
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 3, 4, 8, 9, PAD, PAD]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 2, 3, 0, 0]]
    assert batch.document_ids.tolist() == [[0, 0, 1, 1, 1, 1, 2, 2, -1, -1]]
    assert (batch.num_tokens, batch.num_documents, batch.num_targets) == (8, 3, 5)
    targets = batch.targets()
    assert targets.sources.tolist() == [0, 3, 4, 3, 6]  # 8 comes after the trunk's 2, as 3 does
    assert targets.ids.tolist() == [6, 3, 4, 8, 9]
    assert targets.places.tolist() == [1, 4, 5, 6, 7]
    assert [t.tolist() for t in batch.to("cpu").targets()] == [t.tolist() for t in targets]
    fewer = replace(batch, labels=torch.where(batch.input_ids == 8, IGNORE, batch.labels))
    assert fewer.targets().places.tolist() == [1, 4, 5, 7]


@pytest.mark.parametrize(
    ("documents", "prefixes"),
    [
        ([doc([1, 2, 3], [2]), doc([4, 2, 3], [2])], [0, 0]),  # nothing in common
        ([doc([1, 2, 3], [1, 2]), doc([1, 2, 3], [2])], [0, 1]),  # what the trunk trains is not shared
        ([doc([1, 2, 3], [2]), doc([1, 2, 3], [1, 2])], [0, 1]),  # nor what the branch trains
        ([doc([1, 2, 3], []), doc([1, 2, 3], [])], [0, 2]),  # equal: one token remains
        ([doc([1, 2, 3], []), doc([1, 2], [])], [0, 1]),
        ([doc([1, 2], []), doc([1, 2, 3], [2])], [0, 2]),  # the trunk may be the shorter one
        ([doc([1], []), doc([1], [])], [0, 0]),
        ([doc([1, 2, 3], [2]), doc([4, 5], [1]), doc([4, 6], [1]), doc([1, 2], [1])], [0, 0, 1, 0]),
        ([doc([1, 2, 3], [2]), doc([1, 2, 4], [2]), doc([1, 5, 4], [2]), doc([1, 2, 3, 3], [2, 3])], [0, 2, 1, 2]),
    ],
)
def test_what_is_shared(documents: list[Example], prefixes: list[int]) -> None:
    row = share_prefix(documents)
    assert [one.prefix for one in row] == prefixes
    alone = collate([[one] for one in documents], 5, PAD).targets()
    together = collate([row], 20, PAD).targets()
    assert together.ids.tolist() == alone.ids.tolist()
    assert sum(one.num_trained for one in row) == len(alone.ids)


def test_values_of_a_branch_stay_beside_its_tokens() -> None:
    first = Doc(np.array([1, 2, 3]), np.array([-100, -100, 3]), per_token={"old": np.array([0.0, 0.0, -1.0])})
    second = Doc(np.array([1, 2, 4]), np.array([-100, -100, 4]), per_token={"old": np.array([0.0, 0.0, -2.0])})
    batch = collate([share_prefix([first, second])], 4, PAD)
    assert batch.per_token["old"].tolist() == [[0.0, 0.0, -1.0, -2.0]]
