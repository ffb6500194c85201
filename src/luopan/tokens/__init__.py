"""Tokens: text and conversations in, packed batches of numbered tokens out.

`tokenizer` trains and loads byte-level BPE tokenizers, `chat` turns conversations into tokens with a loss mask,
`shards` keeps documents on disk, `order` says which tokens are the n-th sequence of a run, `packing` fills rows and
`batch` makes tensors of them. Nothing is imported here, so that reading a recipe stays quick.
"""
