"""Before a corpus is made: everything that its steps need is there (libraries, lists, classifiers, evaluation sets).

Each step is run once on a small document, which loads what it will load later, so what is missing is said in seconds
and not after hours of reading.
"""

from __future__ import annotations

from collections.abc import Sequence

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.chain import late_steps, local_steps
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Document
from luopan.corpus.executor import started
from luopan.errors import DataError

PROBE = Document(
    "probe", "A quiet line of text, to see that all the steps can run.", "probe", {"url": "https://example.org/"}
)


def check_curation(config: CurateConfig, names: Sequence[str]) -> None:
    """DataError for whatever would stop the steps of `config` on the sources `names`: a missing library or file, a
    damaged classifier, steps of a source that is not there."""
    for name in config.per_source:
        if name not in names:
            raise DataError(
                f"per_source names {name!r}, which is not read here", hint=f"There are: {', '.join(names)}."
            )
    batch = DocumentBatch.of([PROBE])
    for steps in [config, *config.per_source.values()]:
        for _, step, block in local_steps(steps):
            step(batch, block)
    for _, step, block in late_steps(config):
        step(batch, block)
    if config.executor == "ray":
        started(config.workers)
