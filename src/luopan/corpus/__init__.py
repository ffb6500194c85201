"""Documents: where text comes from, what is kept of it and why the rest is not.

Sources are read as a stream of documents (`read`, `packaged`), normalised and cut (`normalise`), filtered (`filters`,
`repetition`), deduplicated (`dedup`), capped and split into what is trained on and what is held out (`split`); `curate`
does it all and writes down every document that is left out, with the step, the rule and the figure. `store` reads the
result back. `skills/` makes chat data with checkable answers.

Configuration is imported at once, the rest when it is first asked for, so that a recipe loads quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luopan.corpus.config import CurateConfig, HeldOutConfig
from luopan.corpus.document import Document, Rejected
from luopan.corpus.filter_config import NormaliseConfig
from luopan.corpus.source_config import CorpusSource, FileSource, PackagedSource, SourceConfig

if TYPE_CHECKING:
    from luopan.corpus.curation import Curated, curate
    from luopan.corpus.identity import fingerprint
    from luopan.corpus.read import read_files
    from luopan.corpus.store import read_documents, read_rejected, read_texts

LATER = {
    "Curated": "curation",
    "curate": "curation",
    "fingerprint": "identity",
    "read_files": "read",
    "read_documents": "store",
    "read_rejected": "store",
    "read_texts": "store",
}

__all__ = [
    "CorpusSource",
    "CurateConfig",
    "Curated",
    "Document",
    "FileSource",
    "HeldOutConfig",
    "NormaliseConfig",
    "PackagedSource",
    "Rejected",
    "SourceConfig",
    "curate",
    "fingerprint",
    "read_documents",
    "read_files",
    "read_rejected",
    "read_texts",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
