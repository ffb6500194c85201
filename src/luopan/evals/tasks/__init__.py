"""Tasks as small files: questions, how they are put to a model, and how what comes back is scored."""
