"""The front door: one file per verb; each parses, calls and prints. Nothing heavy is imported at start-up."""
