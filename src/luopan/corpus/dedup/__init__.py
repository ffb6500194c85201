"""Duplicates: whole documents (`exact`), near ones (`minhash`, `cluster`), paragraphs and lines (`units`).

Each kind has two parts. The first is a pure function of a batch that gives a few numbers per document, which are kept
in one file per split. The second looks at all those files at once, in partitions by hash (`shuffle`), so that memory
does not grow with the corpus, and writes back one file per split. `hashed` turns texts into hashes of words.
"""
