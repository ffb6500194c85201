"""`luopan eval` on task files: which tasks are meant, who answers, how models compare."""
