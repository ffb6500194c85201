"""Measuring: bits per byte and loss by position, a bigram to beat, multiple choice, retrieval, skills with verifiers.

Nothing is imported here; take what you need from its file.
"""
