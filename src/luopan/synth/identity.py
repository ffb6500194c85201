"""Identity: a persona's facts become questions in many forms and answers in its own voice.

The teacher writes questions for every fact, style and language; what is new is answered by the teacher with all facts
in its system prompt, which the rows do not have: the persona is to be learnt, not read. An answer must hold one of the
fact's `expect` and none of `never`.
"""

from __future__ import annotations

from collections.abc import Iterable

from luopan.synth.config import Fact, IdentityConfig, Sampling
from luopan.synth.harvest import Check, Harvest, ended
from luopan.synth.journal import Asker, Heard, seed_of
from luopan.synth.parsing import numbered
from luopan.synth.speaker import Ask

VERSION = 1

QUESTIONS = """\
An assistant says of itself: "{fact}"

Write {count} messages that people could send to this assistant and that this is the answer to. They do not know the \
answer, so it must not stand in the message. Manner: {style}. Language: {language}. Each message differs from the \
others. Write them as a numbered list, one item each, and nothing else."""

PERSONA = """\
You are the assistant of whom all of this is true:
{facts}

Answer in the first person and in {language}, in one to three sentences, in your own words. Use only the \
facts that the message is about, and nothing that is not among them."""


def identity(config: IdentityConfig, sampling: Sampling, asker: Asker, harvest: Harvest) -> None:
    """Fill the harvest with questions about every fact and their answers."""
    cells = [
        (fact, style, language) for fact in config.facts for style in config.styles for language in config.languages
    ]
    asks = [
        Ask(
            ({"role": "user", "content": QUESTIONS.format(
                fact=fact.ask or fact.statement, count=config.questions, style=style, language=language,
            )},),
            seed_of(harvest.origin.seed, "questions", fact.statement, style, language),
            sampling,
            "questions",
        )
        for fact, style, language in cells
    ]  # fmt: skip
    asked: list[tuple[Fact, str, str, Heard]] = []
    for (fact, style, language), heard in zip(cells, asker.ask(asks), strict=True):
        items = numbered(heard.text)
        if not items:
            reason = heard.reply.fault or "no numbered list"
            harvest.passes({"text": heard.text, "style": style}, [Check("list", False, reason)], [heard])
        for item in items:
            row = {"question": item, "fact": fact.statement, "style": style}
            if harvest.passes(row, _question(item, fact, harvest), [heard]):
                asked.append((fact, item, language, heard))
    _answer(config, asked, sampling, asker, harvest)


def _question(item: str, fact: Fact, harvest: Harvest) -> Iterable[Check]:
    yield Check("list", True)
    told = [word for word in fact.expect if word.casefold() in item.casefold()]
    yield Check("asks", not told, f"the question holds its answer: {', '.join(told)}")
    yield from harvest.clean(item)
    yield from harvest.fresh(item)


def _answer(
    config: IdentityConfig,
    asked: list[tuple[Fact, str, str, Heard]],
    sampling: Sampling,
    asker: Asker,
    harvest: Harvest,
) -> None:
    facts = "\n".join(f"- {fact.statement}" for fact in config.facts)
    asks = []
    for _, question, language, _ in asked:
        system = {"role": "system", "content": PERSONA.format(facts=facts, language=language)}
        seed = seed_of(harvest.origin.seed, "answer", question)
        asks.append(Ask((system, {"role": "user", "content": question}), seed, sampling, "answers"))
    own = [{"role": "system", "content": config.system}] if config.system else []
    for (fact, question, _, source), heard in zip(asked, asker.ask(asks), strict=True):
        talk = [*own, {"role": "user", "content": question}, {"role": "assistant", "content": heard.text}]
        row = {"messages": talk, "fact": fact.statement}
        if harvest.passes(row, _true(heard, fact, config, harvest), [source, heard]):
            harvest.keep(row, [source, heard])


def _true(heard: Heard, fact: Fact, config: IdentityConfig, harvest: Harvest) -> Iterable[Check]:
    yield from ended(heard)
    said = heard.text.casefold()
    held = not fact.expect or any(word.casefold() in said for word in fact.expect)
    yield Check("expected", held, f"the answer holds none of: {', '.join(fact.expect)}")
    banned = [word for word in config.never if word.casefold() in said]
    yield Check("never", not banned, f"the answer holds {', '.join(banned)}")
    yield from harvest.clean(heard.text)
