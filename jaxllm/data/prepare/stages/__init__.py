"""The stages that see one document at a time; each is a file, found by its name."""
