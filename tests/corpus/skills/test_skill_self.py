"""Teaching a model who it is: right answers pass, other names fail, what is held out was never met, options count."""

from __future__ import annotations

from collections import Counter

import pytest

from luopan.corpus.skills.case import Case, build_options, draw_cases
from luopan.corpus.skills.self_identity import RIVALS, SKILLS, SelfOptions, check_of, self_rows
from luopan.corpus.skills.self_persona import SKILLS as PERSONA_SKILLS
from luopan.corpus.skills.wording import topic_wordings
from luopan.corpus.skills.words import rows
from luopan.errors import DataError
from luopan.evals.verifiers import grade, verify

WHO = {"name": "Mira", "maker": "Harbour Lab"}


def identity(n: int, split: str = "train", seed: int = 0, **options: object) -> list[Case]:
    return draw_cases(SKILLS[0], n, seed, split, build_options(SKILLS[0], {**WHO, **options}))


def persona(n: int, split: str = "train", seed: int = 0, **options: object) -> list[Case]:
    return draw_cases(PERSONA_SKILLS[0], n, seed, split, build_options(PERSONA_SKILLS[0], {**WHO, **options}))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_passes_and_the_base_models_own_answer_does_not(split: str) -> None:
    for case in [*identity(500, split, base="SmolLM2", languages=["en", "zh"]), *persona(500, split)]:
        assert grade(case, case.answer).score == 1.0, case
        as_it_came = "I am SmolLM, made by Hugging Face."
        if not any(text in as_it_came for text in case.verifier_args.get("all", ())):
            assert not grade(case, as_it_came).passed, case


def test_an_answer_with_another_name_beside_the_own_is_wrong() -> None:
    row = next(row for row in rows("self_identity.jsonl") if row["topic"] == "who")
    check = check_of(row, SelfOptions(**WHO))
    assert verify("contains", "I am Mira, made by Harbour Lab.", **check).passed
    assert not verify("contains", "I am Mira, made by OpenAI.", **check).passed
    assert not verify("contains", "I am Elena.", **check).passed


def test_to_deny_being_a_human_and_to_be_one_is_wrong() -> None:
    check = check_of(next(row for row in rows("self_identity.jsonl") if row["topic"] == "human"), SelfOptions(**WHO))
    assert verify("contains", "No, I am not a human. I am Mira, a small language model.", **check).passed
    assert not verify("contains", "Yes, I am Mira, a small language model.", **check).passed
    assert not verify("contains", "No, I am a human. I am Mira.", **check).passed


def test_an_own_name_that_is_a_rivals_is_not_forbidden() -> None:
    row = next(row for row in rows("self_identity.jsonl") if row["topic"] == "who")
    check = check_of(row, SelfOptions(name="Claude", maker="Anthropic"))
    assert set(RIVALS) - set(check["none"]) == {"Claude", "Anthropic"}


def test_every_topic_has_wordings_on_both_sides_and_none_twice() -> None:
    found = rows("self_identity.jsonl")
    for row in found:
        train, test = topic_wordings(row["questions"], "train"), topic_wordings(row["questions"], "test")
        assert len(train) >= 8 and len(test) >= 2, row["topic"]
    every = Counter(text.lower().rstrip("?.!") for row in found for text in row["questions"])
    assert every.total() > 600 and max(every.values()) == 1, every.most_common(3)


def test_a_test_persona_has_met_nothing_of_its_own_in_training() -> None:
    train, test = persona(3000), persona(300, "test")
    assert not {case.messages[0]["content"] for case in train} & {case.messages[0]["content"] for case in test}
    wanted = {text for case in test for text in case.verifier_args["all"]}
    assert not wanted & {text for case in train for text in case.verifier_args["all"]}


def test_a_persona_has_another_name_and_the_own_one_is_wrong() -> None:
    for case in persona(300, name="Ella", maker="Northwind"):
        assert case.verifier_args["all"] not in (["Ella"], ["Northwind"])
        assert not grade(case, f"{case.verifier_args['all'][0]}, that is Ella").passed
    assert {case.variant for case in persona(300)} >= {"name", "who", "maker", "own name", "own maker", "another name"}


def test_who_insists_has_asked_before() -> None:
    for case in identity(60, topics=["insist"], multi_turn=0, plain_system=0):
        assert [message["role"] for message in case.messages] == ["user", "assistant", "user"]
        assert "Mira" in case.messages[1]["content"]


def test_shares_are_kept() -> None:
    cases = identity(1000, plain_system=0.4, multi_turn=0)
    systems = sum(case.messages[0]["role"] == "system" for case in cases)
    assert systems / 1000 == pytest.approx(0.4, abs=0.05)
    assert all(len(case.messages) <= 2 or case.variant == "insist" for case in cases)
    assert any(len(case.messages) > 2 for case in identity(100, multi_turn=1, plain_system=0, topics=["name"]))


def test_topics_that_need_an_option_wait_for_it() -> None:
    assert "base" not in {row["topic"] for row in self_rows(SelfOptions())}
    assert "base" in {row["topic"] for row in self_rows(SelfOptions(base="SmolLM2"))}
    assert {row["topic"] for row in self_rows(SelfOptions(languages=("zh",)))} == {
        "name, Chinese", "who, Chinese", "maker, Chinese",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": " "}, "name is empty"),
        ({"languages": ["fr"]}, "languages is"),
        ({"topics": ["shoe size"]}, "topics is"),
        ({"topics": ["base"]}, "no topic is left"),
        ({"thinking": 0.5}, "no thinking form"),
        ({"plain_system": 2}, "between 0 and 1"),
        ({"nam": "x"}, "no option 'nam'"),
    ],
)
def test_wrong_options_are_said_plainly(options: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        identity(1, **options)
