"""Long notes with facts stated early and asked for at the end: data and test for a longer context.

A note opens with codes ("The code of the red box is 4 7 1."), goes on with plain sentences that have nothing to do
with them, and ends with a question. `length` is in characters, so a recipe can place the facts well beyond the length
a model was pretrained with. The codes are random digits: nothing but looking back can know them.
`long_note` is the same as a document for mid-training: it asks again and again on the way, so that there is something
to learn from at every distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from luopan.corpus.skills.case import Draft, Skill, Split
from luopan.corpus.skills.words import words

STATEMENTS = (
    "The code of the {thing} is {code}.",
    "Remember: the code of the {thing} is {code}.",
)
QUESTIONS = (
    "What is the code of the {thing}?",
    "Which code has the {thing}?",
    "Tell me the code of the {thing}.",
    "Do you remember the code of the {thing}?",
    "Please say the code of the {thing}.",
)
FILLER = (
    "The {a} was near the {b}.",
    "In the {place} there was a {a} and a {b}.",
    "Nobody saw the {a} behind the {b}.",
    "Then the {place} was quiet again.",
    "It was a long {time}, and the {a} did not move.",
    "After that came another {time}.",
    "Somebody put the {a} beside the {b}.",
    "The {time} went by slowly.",
    "The {a} and the {b} were in the {place}.",
)
DIGITS_PER_CODE = 3


@dataclass(frozen=True)
class RecallOptions:
    """`length` of the note in characters, `facts` in it. There is nothing to think about: these cases never think."""

    length: int = 400
    facts: int = 4
    thinking: float = 0.0

    def __post_init__(self) -> None:
        if self.thinking:
            raise ValueError("recall has no thinking form; leave thinking out")
        if not 1 <= self.facts <= 40:
            raise ValueError(f"facts is {self.facts!r}; they lie between 1 and 40")
        if self.length < 60 * self.facts:
            raise ValueError(f"length is {self.length!r}; {self.facts} facts need {60 * self.facts} characters")


def draw_facts(random: Random, count: int) -> dict[str, str]:
    """Things with a code each: {"red box": "4 7 1"}; no two things are the same."""
    facts: dict[str, str] = {}
    while len(facts) < count:
        thing = f"{random.choice(words('colors'))} {random.choice(words('objects'))}"
        facts[thing] = " ".join(str(random.randrange(10)) for _ in range(DIGITS_PER_CODE))
    return facts


def filler(random: Random, characters: int) -> str:
    """About that many characters (never more) of sentences without a fact in them."""
    sentences: list[str] = []
    left = characters
    while left > 0:
        a, b = random.sample(words("fillthings"), 2)
        place, time = random.choice(words("fillplaces")), random.choice(words("filltimes"))
        sentence = random.choice(FILLER).format(a=a, b=b, place=place, time=time)
        left -= len(sentence) + 1
        sentences.append(sentence)
    return " ".join(sentences[:-1])


def _state(random: Random, facts: dict[str, str]) -> list[str]:
    return [random.choice(STATEMENTS).format(thing=thing, code=code) for thing, code in facts.items()]


def draw_recall(random: Random, options: RecallOptions, split: Split) -> Draft:
    facts = draw_facts(random, options.facts)
    thing = random.choice(list(facts))
    question = random.choice(QUESTIONS).format(thing=thing)
    opening = " ".join(_state(random, facts))
    middle = filler(random, options.length - len(opening) - len(question) - 2)
    return Draft(
        user=" ".join(part for part in (opening, middle, question) if part),
        answer=facts[thing],
        verifier="items",
        verifier_args={"answer": facts[thing]},
        key=f"{thing}/{facts[thing]}",
        variant=f"{options.length} characters",
    )


def long_note(random: Random, length: int) -> str:
    """A document of at most `length` characters: facts first, then plain sentences with questions and answers."""
    facts = draw_facts(random, max(2, min(8, length // 250)))
    parts = _state(random, facts)
    left = length - sum(len(part) + 1 for part in parts)
    while True:
        thing = random.choice(list(facts))
        asked = f"{random.choice(QUESTIONS).format(thing=thing)} {facts[thing]}."
        gap = filler(random, random.randint(60, 300))
        if left < len(gap) + len(asked) + 2:
            return " ".join(parts)
        parts += [gap, asked]
        left -= len(gap) + len(asked) + 2


def long_story(random: Random, length: int) -> str:
    """A long story of at most `length` characters: people get a home and a thing at the start, and are met again.

    Each later scene uses what was said at the start, so its words can be known only from far back.
    """
    people = random.sample(words("names"), 4)
    homes = dict(zip(people, random.sample(words("cities"), 4), strict=True))
    things = dict(zip(people, random.sample(words("objects"), 4), strict=True))
    colors = {name: random.choice(words("colors")) for name in people}
    parts = [f"{name} lives in {homes[name]} and has a {colors[name]} {things[name]}." for name in people]
    left = length - sum(len(part) + 1 for part in parts)
    while True:
        name, other = random.sample(people, 2)
        scene = random.choice(
            (
                f"{name} showed {other} the {colors[name]} {things[name]}.",
                f"{other} went to {homes[name]} to see {name}.",
                f"{name} came home to {homes[name]} with the {colors[name]} {things[name]}.",
                f"{name} asked for the {things[other]}, and {other} gave away the {colors[other]} {things[other]}"
                f" for a day.",
            )
        )
        gap = filler(random, random.randint(40, 160))
        if left < len(scene) + len(gap) + 2:
            return " ".join(parts)
        parts += [scene, gap] if gap else [scene]
        left -= len(scene) + len(gap) + 2


SKILLS = (Skill("recall", draw_recall, RecallOptions),)
