"""lm-evaluation-harness with models of ours: its tasks and metrics, our scoring and generation."""
