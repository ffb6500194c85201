"""Chat data with checkable answers, all of it generated here or written by hand for this project.

`generate_cases(skill, n, seed, split)` gives questions with a reference answer and a verifier; `documents` the same
as plain text for pretraining; `long_documents` text whose later parts need its beginning; `generate_pairs` preference
pairs, and `contaminate` the flaw they teach away; `converse` makes several turns out of single ones.
"""

from luopan.corpus.skills.case import Case, Message, Split, split_of
from luopan.corpus.skills.dialogue import converse
from luopan.corpus.skills.documents import documents, long_documents
from luopan.corpus.skills.pairs import Pair, contaminate, flaw_cases, generate_pairs
from luopan.corpus.skills.registry import generate_cases, skill_names

__all__ = [
    "Case",
    "Message",
    "Pair",
    "Split",
    "contaminate",
    "converse",
    "documents",
    "flaw_cases",
    "generate_cases",
    "generate_pairs",
    "long_documents",
    "skill_names",
    "split_of",
]
