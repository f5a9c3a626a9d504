"""Model families: one file each, data only, found by its name."""
