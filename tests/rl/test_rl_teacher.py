"""What teachers say of documents, in memory and behind an endpoint, and what the cache keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_endpoint import Endpoint, Reply, endpoint, free_port
from rl_toys import PAD, VOCAB, tiny_policy
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from luopan.errors import FeedUnavailable, RecipeError
from luopan.rl.line import Line
from luopan.rl.teacher import EndpointTeacher, LocalTeacher, Top, check_same_tokens, with_sampled, with_top
from luopan.rl.teacher_cache import DOCUMENTS, cache_key, cached_top
from luopan.tokens.batch import Doc

TEACHER = tiny_policy(9)


def words(*more: str) -> PreTrainedTokenizerFast:
    """A tokenizer of plain words w0, w1, …, of the toys' size unless there are `more`."""
    names = [f"w{number}" for number in range(VOCAB)] + list(more)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="w0"))
    )


def docs(count: int = 5) -> list[Doc]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        ids = torch.randint(2, VOCAB, (4 + number % 3,), generator=generator).tolist()
        found.append(Doc(ids, [-100, -100, *ids[2:]]))
    return found


def exact(doc: Doc, temperature: float = 1.0) -> torch.Tensor:
    """[N, V]: the teacher's log-probabilities at the trained places, from that document alone."""
    with torch.no_grad():
        every = (TEACHER(torch.tensor([list(doc.input_ids)]))[0] / temperature).log_softmax(-1)
    return every[1:-1]


def local(k: int = 4, temperature: float = 1.0, width: int = VOCAB) -> LocalTeacher:
    return LocalTeacher(TEACHER, k, width, temperature, max_length=16, pad_id=PAD, precision="fp32")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_teacher_in_memory_is_that_of_each_document_alone(temperature: float) -> None:
    for doc, (ids, values) in zip(docs(), local(temperature=temperature).top(docs()), strict=True):
        wanted, places = exact(doc, temperature).topk(4)
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(ids, places)
    for doc, logprobs in zip(docs(), local(temperature=temperature).sampled(docs()), strict=True):
        own = exact(doc, temperature)[range(len(doc) - 2), list(doc.input_ids)[2:]]
        torch.testing.assert_close(logprobs, own, rtol=1e-4, atol=1e-5)


def test_tokens_that_the_student_does_not_have_are_left_out() -> None:
    for ids, values in local(width=20).top(docs()):
        assert int(ids.max()) < 20
        assert bool((values.exp().sum(1) <= 1 + 1e-5).all())


def test_columns_stand_with_the_token_that_they_are_about() -> None:
    (doc,) = with_top(docs(1), [(torch.tensor([[7, 8], [9, -1]]), torch.tensor([[-0.5, -1.0], [-0.25, 0.0]]))])
    assert len(doc) == 4
    assert doc.per_token["teacher_id_0"].tolist() == [0, 0, 7, 9]  # type: ignore[union-attr]
    assert doc.per_token["teacher_id_1"].tolist() == [0, 0, 8, -1]  # type: ignore[union-attr]
    assert doc.per_token["teacher_logprob_0"].tolist() == [0, 0, -0.5, -0.25]  # type: ignore[union-attr]
    (doc,) = with_sampled(docs(1), [torch.tensor([-0.5, -2.0])])
    assert doc.per_token["teacher_logprobs"] == [0, 0, -0.5, -2.0]


# ---- vocabularies ----


def test_another_vocabulary_is_told_by_sizes_and_the_first_token_that_differs() -> None:
    check_same_tokens(words(), words(), ("s", "t"))
    turned = {f"w{number}": {3: 5, 5: 3}.get(number, number) for number in range(VOCAB)}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(turned, unk_token="w0")))
    said = r"teacher t has .* than s: 48 tokens and 48; .* token 3, 'w5' there and 'w3'"
    with pytest.raises(RecipeError, match=said):
        check_same_tokens(words(), other, ("s", "t"))
    with pytest.raises(RecipeError, match=r"50 tokens and 48; the first that differs is token 48, 'a' there and None"):
        check_same_tokens(words(), words("a", "b"), ("s", "t"))


# ---- behind an endpoint ----


def vllm(body: dict[str, Any], number: int, names: str = "w") -> Reply:
    """As vLLM answers: of each place of the prompt the likeliest tokens, and the one that came."""
    ids = body["prompt"]
    if max(ids) >= VOCAB:
        return 400, {"error": {"message": f"Token id {max(ids)} is out of vocabulary"}}
    with torch.no_grad():
        every = TEACHER(torch.tensor([ids]))[0].log_softmax(-1)
    told: list[Any] = [None]
    for place in range(1, len(ids)):
        row = every[place - 1]
        top = row.topk(body["prompt_logprobs"]).indices.tolist() if body["prompt_logprobs"] else []
        told.append(
            {
                str(token): {"logprob": row[token].item(), "rank": 1, "decoded_token": f"{names}{token}"}
                for token in {*top, ids[place]}
            }
        )
    return 200, {"choices": [{"index": 0, "text": "", "prompt_logprobs": told}]}


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(vllm) as found:
        yield found


def remote(server: Endpoint, k: int = 4, **more: Any) -> EndpointTeacher:
    return EndpointTeacher(Line(server.url, **more), "big", k, VOCAB)


def test_behind_an_endpoint_it_says_the_same(server: Endpoint) -> None:
    far, near = remote(server).top(docs()), local().top(docs())
    for (ids, values), (known, wanted) in zip(far, near, strict=True):
        assert torch.equal(ids, known)
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
    for one, other in zip(remote(server).sampled(docs()), local().sampled(docs()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert {body["model"] for body in server.asked} == {"big"} and server.paths[0] == "/v1/completions"


def test_fewer_tokens_than_asked_for_are_marked(server: Endpoint) -> None:
    def stingy(body: dict[str, Any], number: int) -> Reply:
        return vllm({**body, "prompt_logprobs": 1}, number)

    server.behave = stingy
    for (ids, values), doc in zip(remote(server).top(docs()), docs(), strict=True):
        assert bool((ids[:, 0] >= 0).all()) and bool((ids[:, 2:] == -1).all())
        assert ids.shape == values.shape == (len(doc) - 2, 4)


@pytest.mark.parametrize(
    ("answer", "words_"),
    [
        ({"choices": [{"text": ""}]}, "no prompt_logprobs"),
        ({"choices": []}, "no prompt_logprobs"),
        ({"choices": [{"prompt_logprobs": [None]}]}, "of another length"),
        ({"choices": [{"prompt_logprobs": [None, {}, {"a": 1}, {}]}]}, "no log-probabilities by token number"),
        ({"choices": [{"prompt_logprobs": [None, {}, {"99": {"logprob": -1}}, {}]}]}, "nothing about token"),
    ],
)
def test_an_endpoint_that_does_not_say_it_is_told_what_it_must(
    server: Endpoint, answer: dict[str, Any], words_: str
) -> None:
    server.behave = lambda body, number: (200, answer)
    with pytest.raises(RecipeError, match=words_) as error:
        remote(server).top(docs(1))
    assert "luopan serve" in (error.value.hint or "")


def test_an_endpoint_is_asked_what_it_calls_the_students_tokens(server: Endpoint) -> None:
    remote(server).check(words())
    assert len(server.asked) == 1 and server.asked[0]["prompt"][-1] == VOCAB - 1
    server.behave = lambda body, number: vllm(body, number, "v")
    with pytest.raises(RecipeError, match=r"has 48 tokens: token 2 is 'v2' there and 'w2' here"):
        remote(server).check(words())
    server.behave = vllm
    with pytest.raises(RecipeError, match=r"does not take the student's tokens, of which there are 50: .*out of vocab"):
        remote(server).check(words("a", "b"))


def test_an_endpoint_that_is_away_ends_in_feed_unavailable() -> None:
    away = EndpointTeacher(Line(f"http://127.0.0.1:{free_port()}/v1", patience=0.1), "big", 4, VOCAB)
    with pytest.raises(FeedUnavailable, match="cannot be reached"):
        away.top(docs(1))


# ---- the cache ----


class Counted:
    """A teacher that counts, and stops after so many calls."""

    def __init__(self, stop_after: int = 99) -> None:
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, some: Sequence[Doc]) -> list[Top]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return local().top(some)


def same(one: Sequence[Top], other: Sequence[Top]) -> bool:
    return all(torch.equal(a, b) and torch.equal(v, w) for (a, v), (b, w) in zip(one, other, strict=True))


def test_the_cache_is_gone_on_with_where_it_was_stopped(tmp_path: Path) -> None:
    many = docs(2 * DOCUMENTS + 3)
    with pytest.raises(KeyboardInterrupt):
        cached_top(Counted(stop_after=2), many, tmp_path)
    rest, heard = Counted(), []
    found = cached_top(rest, many, tmp_path, advance=heard.append)
    assert rest.calls == 1 and heard == [DOCUMENTS, 2 * DOCUMENTS, len(many)]
    whole = Counted()
    assert same(found, cached_top(whole, many, tmp_path / "whole")) and whole.calls == 3
    again = Counted()
    assert same(found, cached_top(again, many, tmp_path)) and again.calls == 0


@pytest.mark.parametrize("damage", ["empty", "rubbish", "cut", "flipped"])
def test_a_damaged_part_is_made_again(tmp_path: Path, damage: str) -> None:
    many = docs(DOCUMENTS + 1)
    found = cached_top(Counted(), many, tmp_path)
    file = tmp_path / "part-00001.bin"
    whole = file.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    file.write_bytes({"empty": b"", "rubbish": b"rubbish", "cut": whole[:-4], "flipped": flipped}[damage])
    again = Counted()
    assert same(found, cached_top(again, many, tmp_path)) and again.calls == 1


def test_the_key_holds_all_that_the_answer_depends_on() -> None:
    base = cache_key("a", docs(), 4, 1.0)
    moved = [Doc(doc.input_ids, [-100, *doc.labels[1:]]) for doc in docs()]
    moved[0] = Doc(moved[0].input_ids, [-100, -100, -100, *moved[0].labels[3:]])
    others = [
        cache_key("b", docs(), 4, 1.0), cache_key("a", docs(4), 4, 1.0), cache_key("a", moved, 4, 1.0),
        cache_key("a", docs(), 5, 1.0), cache_key("a", docs(), 4, 0.5),
    ]  # fmt: skip
    assert len({base, *others}) == 6 and base == cache_key("a", docs(), 4, 1.0)
