"""Preflight: what would go wrong with a recipe, found before compute is spent."""
