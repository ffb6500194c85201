"""Documents: where text comes from, what is kept of it and why the rest is not.

Sources are read as a stream of documents (`read`, `packaged`), normalised and cut (`normalise`), filtered (`filters`,
`repetition`), deduplicated (`dedup`), capped and split into what is trained on and what is held out (`split`); `curate`
does it all and writes down every document that is left out, with the step, the rule and the figure. `store` reads the
result back. `skills/` makes chat data with checkable answers.

Only configuration is imported here, so that a recipe loads at once; the rest is imported by its module.
"""

from luopan.corpus.config import (
    CorpusSource,
    CurateConfig,
    FileSource,
    FilterConfig,
    HeldOutConfig,
    NormaliseConfig,
    PackagedSource,
    SourceConfig,
)
from luopan.corpus.document import Document, Rejected

__all__ = [
    "CorpusSource",
    "CurateConfig",
    "Document",
    "FileSource",
    "FilterConfig",
    "HeldOutConfig",
    "NormaliseConfig",
    "PackagedSource",
    "Rejected",
    "SourceConfig",
]
