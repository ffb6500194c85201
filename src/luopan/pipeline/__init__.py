"""Runs a recipe: which stages are done, which to resume, which to redo; locks, lineage, and models by name."""
