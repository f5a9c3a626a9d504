"""Task files of lm-evaluation-harness over local files, and the readers of those files."""
