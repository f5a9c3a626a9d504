"""jaxllm: a training system for language models on JAX, from raw text to a tuned model."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["load"]


def load(model: str, **options):
    """Opens a trained model for use from Python. See `jaxllm.generate.model.load`."""
    from jaxllm.generate.model import load as load_model  # jax only when a model is asked for

    return load_model(model, **options)
