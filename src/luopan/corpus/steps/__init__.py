"""The steps of curation: one file each, pure functions of a batch and a configuration."""
