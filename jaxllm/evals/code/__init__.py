"""Programs that a model writes: run in a sandbox, and judged by their tests."""
