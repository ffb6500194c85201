"""`luopan bench`: what this machine gives, beside what its data sheet says."""
