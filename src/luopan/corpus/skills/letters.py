"""Skills over letters: reversing and spelling words, counting a letter.

A byte-pair vocabulary hides the letters of a plain word, so each skill comes in two variants. Spaced: the prompt
shows the letters apart ("c a t"), each its own token, and the model has only to move them. Plain: the prompt shows
the word, and the model must know its spelling, which a very small model knows only of words it was trained on.
Reversing thinks by numbering the letters and counting down (`1 c 2 a 3 t, 3 t 2 a 1 c`): each step then looks up a
number it has just written. Spaced reversing mixes random letters with words (`random_letters`), or a model learns the
words instead of the way. Counting shows its letters apart, and thinks by a running count.

Words held out for the test are never asked about in training, in either variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from luopan.corpus.skills.case import Draft, Skill, Split, check_share
from luopan.corpus.skills.words import words

REVERSE_SPACED = (
    "Reverse these letters: {letters}",
    "Write these letters backwards: {letters}",
    "Say these letters in reverse: {letters}",
    "Turn these letters around: {letters}",
    "Please reverse: {letters}",
)
REVERSE_PLAIN = (
    "Reverse the letters of {word}.",
    "Spell {word} backwards.",
    "Write {word} backwards.",
    "What is {word} spelled backwards?",
    "Please reverse the word {word}.",
)
SPELL_PLAIN = (
    "Spell {word}.",
    "How do you spell {word}?",
    "Spell the word {word}.",
    "Please spell {word}.",
    "What letters are in {word}?",
    "Tell me the letters of {word}.",
)
SPELL_SPACED = (
    "What word is this: {letters}?",
    "Which word do these letters make: {letters}?",
    "Join these letters: {letters}",
    "Put these letters together: {letters}",
    "Read this word: {letters}",
)
COUNT_LETTERS = (
    "How many {letter} are in {letters}?",
    "How often does {letter} occur in {letters}?",
    "Count the letter {letter}: {letters}",
    "Count {letter} in {letters}",
)


@dataclass(frozen=True)
class LetterOptions:
    """`spaced` is the share of spaced prompts, `lengths` the letters per word.

    `random_letters` is the share of spaced *reversing* prompts that show random letters instead of a word.
    """

    lengths: tuple[int, ...] = (3, 4, 5)
    spaced: float = 1.0
    random_letters: float = 0.5
    thinking: float = 0.5

    def __post_init__(self) -> None:
        for name in ("spaced", "random_letters", "thinking"):
            check_share(name, getattr(self, name))
        if not self.lengths or not set(self.lengths) <= {3, 4, 5}:
            raise ValueError(f"lengths is {self.lengths!r}; words of 3, 4 and 5 letters are listed")


@dataclass(frozen=True)
class SpellingOptions(LetterOptions):
    """Spelling shows plain words by default: "Spell cat." -> "c a t"; spaced is the other way round."""

    spaced: float = 0.0
    random_letters: float = 0.0
    thinking: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thinking or self.random_letters:
            raise ValueError("spelling has no thinking form and no random letters; leave them out")


def _word(random: Random, lengths: tuple[int, ...]) -> str:
    return random.choice(words(f"spell{random.choice(lengths)}"))


def reversing_working(letters: str) -> str:
    """Number the letters, then count down."""
    numbered = [f"{number} {letter}" for number, letter in enumerate(letters, start=1)]
    return f"{' '.join(numbered)}, {' '.join(reversed(numbered))}"


def draw_reversing(random: Random, options: LetterOptions, split: Split) -> Draft:
    spaced = random.random() < options.spaced
    if spaced and random.random() < options.random_letters:
        word = "".join(random.choices(ascii_lowercase, k=random.choice(options.lengths)))
    else:
        word = _word(random, options.lengths)
    wording = random.choice(REVERSE_SPACED if spaced else REVERSE_PLAIN)
    answer = " ".join(reversed(word))
    return Draft(
        user=wording.format(letters=" ".join(word), word=word),
        answer=answer,
        verifier="letters",
        verifier_args={"answer": answer},
        key=word,
        thinking=reversing_working(word),
        variant="spaced" if spaced else "plain",
    )


def draw_spelling(random: Random, options: SpellingOptions, split: Split) -> Draft:
    spaced = random.random() < options.spaced
    word = _word(random, options.lengths)
    wording = random.choice(SPELL_SPACED if spaced else SPELL_PLAIN)
    answer = word if spaced else " ".join(word)
    return Draft(
        user=wording.format(letters=" ".join(word), word=word),
        answer=answer,
        verifier="exact" if spaced else "letters",
        verifier_args={"answer": answer},
        key=word,
        variant="spaced" if spaced else "plain",
    )


@dataclass(frozen=True)
class CountingOptions:
    """`lengths`: letters shown, apart, drawn from `alphabet`: the fewer there are, the sooner they are copied without a
    slip. The answers 0 to `most` are equally frequent, or always saying 1 would pay."""

    lengths: tuple[int, ...] = (4, 5, 6, 7, 8)
    alphabet: str = ascii_lowercase
    most: int = 4
    thinking: float = 0.5

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        if not self.lengths or not all(1 <= length <= 20 for length in self.lengths):
            raise ValueError(f"lengths is {self.lengths!r}; between 1 and 20 letters are shown")
        if len(set(self.alphabet)) < 2 or not set(self.alphabet) <= set(ascii_lowercase):
            raise ValueError(f"alphabet is {self.alphabet!r}; two or more of a to z")
        if not 1 <= self.most <= min(self.lengths):
            raise ValueError(f"most is {self.most!r}; it is at least 1 and no more than the fewest letters shown")


def counting_working(letters: str, wanted: str) -> str:
    """Each letter with how often the wanted one has come by then: `r 1 a 1 r 2`."""
    return " ".join(f"{letter} {letters[: place + 1].count(wanted)}" for place, letter in enumerate(letters))


def draw_letter_counting(random: Random, options: CountingOptions, split: Split) -> Draft:
    wanted = random.choice(options.alphabet)
    count, length = random.randint(0, options.most), random.choice(options.lengths)
    others = [letter for letter in options.alphabet if letter != wanted]
    shown = [wanted] * count + random.choices(others, k=length - count)
    random.shuffle(shown)
    letters = "".join(shown)
    return Draft(
        user=random.choice(COUNT_LETTERS).format(letter=wanted, letters=" ".join(letters)),
        answer=str(count),
        verifier="number",
        verifier_args={"answer": count},
        key=f"{wanted} {letters}",
        thinking=counting_working(letters, wanted),
    )


SKILLS = (
    Skill("letter_counting", draw_letter_counting, CountingOptions),
    Skill("reversing", draw_reversing, LetterOptions),
    Skill("spelling", draw_spelling, SpellingOptions),
)
