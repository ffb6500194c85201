"""Tiny stories with a question: where someone is, who has something, what someone has, where a thing is.

A story has two or three people, three to five sentences, and now and then a change (someone goes elsewhere, a thing
is given away), so that the *last* sentence about the matter counts. Where a thing is takes two steps: who has it,
where that person is. The thinking form quotes the deciding sentences in order.

The split is by the answer asked for: if (where, Anna, kitchen) is held out, no training question has that answer,
though training stories may mention it in passing. Names, places and things outside the lists are beyond a model that
was trained on this alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from luopan.corpus.skills.case import Draft, Skill, Split, check_share
from luopan.corpus.skills.words import words

KINDS = ("where", "who", "what", "thing")
FRAMES = (
    "{story} {question}",
    "{story}\n{question}",
    "Here is a story. {story} {question}",
    "Read this: {story} {question}",
    "{story} Tell me: {question}",
)
MOVES = ("{person} goes to the {place}.", "{person} walks to the {place}.")


@dataclass(frozen=True)
class StoryOptions:
    """`kinds` of questions, `people` per story, `change` the share of stories in which something changes."""

    kinds: tuple[str, ...] = KINDS
    people: tuple[int, ...] = (2, 3)
    change: float = 0.5
    thinking: float = 0.5

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        check_share("change", self.change)
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds is {self.kinds!r}; they are {', '.join(KINDS)}")
        if not self.people or not set(self.people) <= {2, 3, 4}:
            raise ValueError(f"people is {self.people!r}; a story has 2 to 4")


class Story:
    """A story as it is told: its sentences, and for each person and thing the sentence that holds at the end."""

    def __init__(self, random: Random, people: int) -> None:
        self.random = random
        self.people = random.sample(words("names"), people)
        self.sentences: list[str] = []
        self.place: dict[str, str] = {}
        self.place_told: dict[str, str] = {}
        self.owner: dict[str, str] = {}
        self.owner_told: dict[str, str] = {}
        self._free_places = random.sample(words("places"), people + 2)
        self._begin()

    def _begin(self) -> None:
        person, thing = self.random.choice(self.people), self.random.choice(words("objects"))
        self.owner[thing] = person
        self.owner_told[thing] = f"{person} has the {thing}."
        for name in self.people:
            self.place[name] = self._free_places.pop()
            self.place_told[name] = f"{name} is in the {self.place[name]}."
        self.sentences = [*self.place_told.values(), self.owner_told[thing]]
        self.random.shuffle(self.sentences)

    def move(self) -> None:
        """Someone goes to a place where nobody was."""
        person = self.random.choice(self.people)
        self.place[person] = self._free_places.pop()
        self.place_told[person] = self.random.choice(MOVES).format(person=person, place=self.place[person])
        self.sentences.append(self.place_told[person])

    def give(self) -> None:
        """The thing is given to somebody else."""
        ((thing, giver),) = self.owner.items()
        taker = self.random.choice([name for name in self.people if name != giver])
        self.owner[thing] = taker
        self.owner_told[thing] = f"{giver} gives the {thing} to {taker}."
        self.sentences.append(self.owner_told[thing])


def draw_story(random: Random, options: StoryOptions, split: Split) -> Draft:
    story = Story(random, random.choice(options.people))
    if random.random() < options.change:
        for change in random.sample((story.move, story.give), random.randint(1, 2) if len(story.people) < 3 else 1):
            change()
    kind = random.choice(options.kinds)
    question, answer, short, thinking, key = _ask(random, story, kind)
    return Draft(
        user=random.choice(FRAMES).format(story=" ".join(story.sentences), question=question),
        answer=answer,
        verifier="one_of",
        verifier_args={"answers": [answer, *short]},
        key=f"{kind}/{key}",
        thinking=thinking,
        variant=kind,
    )


def _ask(random: Random, story: Story, kind: str) -> tuple[str, str, list[str], str, str]:
    """Question, answer in a sentence, shorter answers that count, thinking, key."""
    ((thing, owner),) = story.owner.items()
    if kind == "where":
        person = random.choice(story.people)
        place = story.place[person]
        return (
            f"Where is {person}?",
            f"{person} is in the {place}.",
            [f"in the {place}", f"the {place}", place],
            story.place_told[person],
            f"{person}/{place}",
        )
    if kind == "thing":
        place = story.place[owner]
        return (
            f"Where is the {thing}?",
            f"The {thing} is in the {place}.",
            [f"it is in the {place}", f"in the {place}", f"the {place}", place],
            f"{story.owner_told[thing]} {story.place_told[owner]}",
            f"{thing}/{place}",
        )
    answer = f"{owner} has the {thing}."
    if kind == "who":
        return f"Who has the {thing}?", answer, [owner, f"{owner} does"], story.owner_told[thing], f"{owner}/{thing}"
    short = [f"the {thing}", thing, f"a {thing}"]
    return f"What does {owner} have?", answer, short, story.owner_told[thing], f"{owner}/{thing}"


SKILLS = (Skill("story", draw_story, StoryOptions),)
