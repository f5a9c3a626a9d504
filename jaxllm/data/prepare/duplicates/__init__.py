"""Documents, and parts of them, that are in the corpus more than once."""
