"""Self-Instruct: new instructions in the manner of given ones, and their answers (Wang et al. 2023, arXiv:2212.10560).

A round shows the teacher some of the given instructions, drawn anew for every request, and some of those it made; what
it writes is kept where it is of a usable length, differs from all there are and holds nothing of an evaluation set.
Only then is the teacher asked for an answer. Rounds go on until there are enough, or until three in a row bring
nothing new. Beside the paper: the tasks are not told apart into classification and others, and the overlap is of
n-grams.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from luopan.corpus.dedup.hashed import hashed_words
from luopan.synth.config import Sampling, SelfInstructConfig
from luopan.synth.harvest import Check, Harvest, ended
from luopan.synth.journal import Asker, Heard, seed_of
from luopan.synth.parsing import numbered
from luopan.synth.speaker import Ask

VERSION = 1
BARREN = 3  # rounds without anything new, after which it is over

REQUEST = """\
Here are {n} instructions that people gave to an assistant:

{shown}

Write {count} new instructions{topic}. They should differ from these and from one another in subject, in what is asked \
for, in length and in tone. Each must be answerable in text alone, without a file, a picture or the web, and must \
bring along whatever it speaks of. Write them as a numbered list, one item each, and nothing else."""


def self_instruct(
    config: SelfInstructConfig, seeds: Sequence[str], sampling: Sampling, asker: Asker, harvest: Harvest
) -> None:
    """Fill the harvest with `config.rows` rows, if there is so much new."""
    for seed in seeds:
        harvest.know(seed)
    own: list[str] = []
    waiting: list[tuple[str, Heard]] = []
    barren = number = 0
    while (missing := config.rows - len(harvest.rows)) > 0 and barren < BARREN:
        if len(waiting) < missing:
            waiting += _invent(config, seeds, own, sampling, asker, harvest, number)
            number += 1
        _answer(waiting[:missing], sampling, asker, harvest, own)
        waiting = waiting[missing:]
        barren = barren + 1 if config.rows - len(harvest.rows) == missing else 0
    if len(harvest.rows) < config.rows:
        harvest.notes.append(
            f"{BARREN} rounds in a row brought nothing new, so there are {len(harvest.rows):,} rows and not "
            f"{config.rows:,}: give more seeds, raise the temperature or dedup.max_overlap."
        )


def _invent(
    config: SelfInstructConfig,
    seeds: Sequence[str],
    own: Sequence[str],
    sampling: Sampling,
    asker: Asker,
    harvest: Harvest,
    number: int,
) -> list[tuple[str, Heard]]:
    """The new instructions of a round, with the reply that each stands in."""
    asks = []
    for place in range(config.requests_per_round):
        seed = seed_of(harvest.origin.seed, "instructions", number, place)
        draw = random.Random(seed)
        shown = draw.sample(list(seeds), min(config.exemplars, len(seeds)))
        shown += draw.sample(list(own), min(config.own_exemplars, len(own)))
        draw.shuffle(shown)
        text = REQUEST.format(
            n=len(shown),
            shown="\n".join(f"{at}. {one}" for at, one in enumerate(shown, 1)),
            count=config.per_request,
            topic=f" about {config.topic}" if config.topic else "",
        )
        asks.append(Ask(({"role": "user", "content": text},), seed, sampling, "instructions"))
    kept = []
    for heard in asker.ask(asks):
        items = numbered(heard.text)
        if not heard.reply.ended and items:
            items.pop()  # the last one is cut
        if not items:
            reason = heard.reply.fault or "no numbered list"
            harvest.passes({"text": heard.text}, [Check("list", False, reason)], [heard])
        for item in items:
            row = {"instruction": item}
            if harvest.passes(row, _usable(item, config, harvest), [heard]):
                kept.append((item, heard))
    return kept


def _usable(item: str, config: SelfInstructConfig, harvest: Harvest) -> Iterable[Check]:
    yield Check("list", True)
    words = len(hashed_words([item]).hashes)
    fits = config.min_words <= words <= config.max_words
    yield Check("length", fits, f"{words} words")
    yield from harvest.clean(item)
    yield from harvest.fresh(item)


def _answer(
    found: Sequence[tuple[str, Heard]], sampling: Sampling, asker: Asker, harvest: Harvest, own: list[str]
) -> None:
    """Ask for the answers, and keep the rows."""
    asks = [
        Ask(({"role": "user", "content": item},), seed_of(harvest.origin.seed, "answer", item), sampling, "answers")
        for item, _ in found
    ]
    for (item, source), heard in zip(found, asker.ask(asks), strict=True):
        row = {"messages": [{"role": "user", "content": item}, {"role": "assistant", "content": heard.text}]}

        def checks(item: str = item, heard: Heard = heard) -> Iterable[Check]:
            yield from ended(heard)
            yield from harvest.clean(f"{item}\n{heard.text}")

        if harvest.passes(row, checks(), [source, heard]):
            harvest.keep(row, [source, heard])
            own.append(item)
