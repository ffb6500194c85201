"""Learning from rollouts: prompts with a verifier, groups of answers, advantages, the feed of the on-policy loop."""
