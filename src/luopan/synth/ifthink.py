"""IFThink: conversations whose instructions are checked by rule, thinking switched on and off from turn to turn.

After SmolLM3's data of that name (Hugging Face, 2025): a single-turn prompt with verifiable instructions is carried on
by the teacher for some turns, every turn gets instructions of its own, some turns are to think and others not, and a
conversation is kept where every answer ended, thought as it was told and followed its instructions (IFEval's checks,
strict). The instructions of the later turns are ours and not the teacher's, so that they can be checked.

A row says the mode in the user's turn (/think, /no_think), and `verifiable` keeps what each turn was checked by. All
conversations go forward together, a turn at a time; one that fails a turn is asked for no further one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from luopan.evals.verdict import Verdict
from luopan.evals.verifiers import Job, verify_many
from luopan.synth.config import IfThinkConfig, Sampling
from luopan.synth.constraints import draw
from luopan.synth.harvest import Check, Harvest, ended
from luopan.synth.journal import Asker, Heard, seed_of
from luopan.synth.parsing import numbered
from luopan.synth.speaker import Ask

VERSION = 1
FLAGS = {True: " /think", False: " /no_think"}

CARRY_ON = """\
A user asks an assistant:

{question}

Write the {count} messages with which this user goes on, one after another, once the assistant has answered: a \
question about the answer, a change to it, a next step. Each is short, can be answered in text alone, and says \
nothing of the form or the length of the answer. Write them as a numbered list, one item each, and nothing else."""


@dataclass(frozen=True)
class First:
    """A first question; `ids` and `kwargs` as IFEval's rows have them, where it says its instructions itself."""

    text: str
    ids: tuple[str, ...] = ()
    kwargs: tuple[Mapping[str, Any], ...] = ()


@dataclass
class Talk:
    """A conversation on its way. `asked`: the user's turns with their instructions, `said`: the answers so far."""

    number: int
    asked: list[First]
    modes: list[bool] = field(default_factory=list)
    said: list[Heard] = field(default_factory=list)
    source: list[Heard] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """As the teacher is asked: the answers without their thinking."""
        found: list[dict[str, Any]] = []
        for place in range(min(len(self.asked), len(self.said) + 1)):
            found.append({"role": "user", "content": self.asked[place].text})
            if place < len(self.said):
                found.append({"role": "assistant", "content": self.said[place].text})
        return found

    def row(self, flag: bool) -> dict[str, Any]:
        """As it is learnt from."""
        messages: list[dict[str, Any]] = []
        for turn, mode, heard in zip(self.asked, self.modes, self.said):
            messages.append({"role": "user", "content": turn.text + (FLAGS[mode] if flag else "")})
            thought = {"reasoning_content": heard.reply.thinking} if mode and heard.reply.thinking else {}
            messages.append({"role": "assistant", "content": heard.text, **thought})
        return {
            "messages": messages,
            "chat_template_kwargs": {"enable_thinking": any(self.modes)},
            "modes": ["think" if mode else "no_think" for mode in self.modes],
            "verifiable": [
                {"instruction_id_list": list(turn.ids), "kwargs": [dict(args) for args in turn.kwargs]}
                for turn in self.asked
            ],
        }


def ifthink(config: IfThinkConfig, firsts: Sequence[First], sampling: Sampling, asker: Asker, harvest: Harvest) -> None:
    """Fill the harvest with the conversations, of `config.rows` that are begun, that pass."""
    talks: list[Talk] = []
    for number, first in enumerate(firsts):
        if len(talks) == config.rows:
            break
        random = Random(seed_of(harvest.origin.seed, "talk", number, first.text))
        if harvest.passes({"question": first.text}, _askable(first, harvest)):
            talk = Talk(number, [first if first.ids else _with_instructions(first.text, config, random)])
            talk.modes = modes(config, random)
            talks.append(talk)
    if len(talks) < config.rows:
        harvest.notes.append(f"There are first questions for {len(talks):,} conversations, not for {config.rows:,}.")
    talks = _carried_on(config, talks, sampling, asker, harvest)
    for turn in range(config.turns):
        talks = _answered(config, talks, turn, sampling, asker, harvest)
    for talk in talks:
        harvest.keep(talk.row(config.flag), [*talk.source, *talk.said])


def _askable(first: First, harvest: Harvest) -> Iterable[Check]:
    yield from harvest.clean(first.text)
    yield from harvest.fresh(first.text)


def modes(config: IfThinkConfig, random: Random) -> list[bool]:
    """Which turns think; where both may be, the mode changes at least once."""
    found = [random.random() < config.thinking for _ in range(config.turns)]
    if len(found) > 1 and len(set(found)) == 1 and 0 < config.thinking < 1:
        place = random.randrange(len(found))
        found[place] = not found[place]
    return found


def _with_instructions(text: str, config: IfThinkConfig, random: Random) -> First:
    some = draw(random, random.randint(*config.constraints))
    said = " ".join([text.strip(), *(one.text for one in some)])
    return First(said, tuple(one.id for one in some), tuple(one.kwargs for one in some))


def _carried_on(
    config: IfThinkConfig, talks: Sequence[Talk], sampling: Sampling, asker: Asker, harvest: Harvest
) -> list[Talk]:
    """The user's further turns, each with instructions of its own."""
    more = config.turns - 1
    if not more:
        return list(talks)
    asks = [
        Ask(
            ({"role": "user", "content": CARRY_ON.format(question=talk.asked[0].text, count=more)},),
            seed_of(harvest.origin.seed, "turns", talk.number),
            sampling,
            "turns",
            False,
        )
        for talk in talks
    ]
    kept = []
    for talk, heard in zip(talks, asker.ask(asks), strict=True):
        items = numbered(heard.text)
        reason = heard.reply.fault or f"{len(items)} of {more} further turns"
        checks = [Check("turns", len(items) >= more and not heard.reply.fault, reason)]
        if harvest.passes({"question": talk.asked[0].text, "text": heard.text}, checks, [heard]):
            random = Random(seed_of(harvest.origin.seed, "instructions", talk.number))
            talk.asked += [_with_instructions(item, config, random) for item in items[:more]]
            talk.source = [heard]
            kept.append(talk)
    return kept


def _answered(
    config: IfThinkConfig, talks: Sequence[Talk], turn: int, sampling: Sampling, asker: Asker, harvest: Harvest
) -> list[Talk]:
    """Those whose answer to this turn passes."""
    asks = [
        Ask(
            tuple(talk.messages()),
            seed_of(harvest.origin.seed, "answer", talk.number, turn),
            sampling,
            "answers",
            talk.modes[turn],
        )
        for talk in talks
    ]
    heard = asker.ask(asks)
    verdicts = verify_many(
        [
            Job("ifeval", one.text, {"instruction_id_list": list(at.ids), "kwargs": [dict(args) for args in at.kwargs]})
            for at, one in zip((talk.asked[turn] for talk in talks), heard, strict=True)
        ]
    )
    kept = []
    for talk, one, verdict in zip(talks, heard, verdicts, strict=True):
        talk.said.append(one)
        row = {**talk.row(config.flag), "turn": turn}
        if harvest.passes(row, _right(config, talk.modes[turn], one, verdict, harvest), [*talk.source, *talk.said]):
            kept.append(talk)
    return kept


def _right(config: IfThinkConfig, mode: bool, heard: Heard, verdict: Verdict, harvest: Harvest) -> Iterable[Check]:
    yield from ended(heard)
    thought = heard.reply.thinking
    yield Check("mode", bool(thought) == mode, "it did not think" if mode else "it thought, and was told not to")
    if config.max_think_words is not None and thought:
        words = len(thought.split())
        yield Check("trace length", words <= config.max_think_words, f"a trace of {words:,} words")
    yield Check("judged", verdict.score is not None, verdict.reason)
    for name, score in verdict.parts.items():
        yield Check(name, score >= 1.0, "not followed")
    yield from harvest.clean(heard.text)
