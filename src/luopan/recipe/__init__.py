"""What the user writes: the typed recipe, loading, overrides, errors with a line number and a suggestion."""
