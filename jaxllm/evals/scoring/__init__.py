"""Log-probabilities of texts given others, in batches of a few shapes."""
