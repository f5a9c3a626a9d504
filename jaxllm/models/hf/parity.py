"""Whether an exported folder computes what its source does: re-imported, and in transformers.

B texts, T tokens.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.hf.importer import read_config
from jaxllm.models.load import Model
from jaxllm.models.tower import Inputs

FILE = "parity.json"
TEXTS, LENGTH = 1, 32  # one text: without padding transformers pools no batch


def sample_ids(config: ModelConfig, avoid: set[int], last: int | None) -> dict[str, np.ndarray]:
    """Random tokens int32 [B, T] for the encoder and the decoder, of those that the model has.

    Args:
      avoid: ids that transformers gives a meaning of their own, such as padding.
      last: the id that ends each text, if one must (BART pools there).
    """
    rng = np.random.default_rng(0)
    choices = [token for token in range(config.vocab_size) if token not in avoid]
    most = config.positions.max_length if config.positions.kind == "learned" else LENGTH
    ids = {}
    for name in ("encoder", "decoder"):
        if config.architecture in (name, "encoder_decoder"):
            ids[name] = rng.choice(choices, (TEXTS, min(LENGTH, most))).astype(np.int32)
            if last is not None:
                ids[name][:, -1] = last
    return ids


def ours(model: Model, ids: dict[str, np.ndarray]) -> np.ndarray:
    """What our model makes of the tokens: logits, scores, or hidden states, float32."""
    def inputs(tokens: np.ndarray) -> Inputs:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return Inputs(jnp.asarray(tokens), positions)

    @jax.jit
    def run(params):
        transformer = model.bind(params)
        given = inputs(ids.get("decoder", ids.get("encoder")))
        if len(ids) == 2:
            given = given._replace(encoder=inputs(ids["encoder"]))
        if model.config.head.kind in LANGUAGE_HEADS:
            return transformer.logits(transformer.hidden(given))
        return transformer.text_outputs(given)

    return np.asarray(run(model.params), np.float32)


def theirs(folder: str | os.PathLike, ids: dict[str, np.ndarray], config: ModelConfig) -> Any:
    """What transformers makes of the same in float32; None where it is not installed.

    Raises:
      RuntimeError: it misses tensors, or finds further ones.
    """
    try:
        torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    except ImportError:
        return None
    kind = getattr(transformers, read_config(folder)["architectures"][0])
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    # an encoder without a pooler, which config.json does not say
    bare = config.architecture == "encoder" and config.head.kind == "embedding"
    options = {"add_pooling_layer": False} if bare and not config.head.dense else {}
    model, loading = kind.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
        **options,
    )
    if shown:
        bars.enable_progress_bar()
    if odd := {name: found for name, found in loading.items() if found}:
        raise RuntimeError(f"transformers does not load {folder} strictly: {odd}")
    tokens = {name: torch.tensor(array.astype(np.int64)) for name, array in ids.items()}
    first = tokens.get("encoder", tokens.get("decoder"))
    given = {"input_ids": first, "attention_mask": torch.ones_like(first)}
    if len(tokens) == 2:
        given["decoder_input_ids"] = tokens["decoder"]
    with torch.no_grad():
        out = model.eval()(**given)
    return _pooled(out, config).float().numpy()


def _pooled(out: Any, config: ModelConfig) -> Any:
    """The output that corresponds to ours."""
    head = config.head
    if head.kind == "reward":
        return out.logits[..., 0]
    if head.kind != "embedding":
        return out.logits
    if head.dense:
        return out.pooler_output
    states = out.last_hidden_state
    pool = {"first": lambda x: x[:, 0], "last": lambda x: x[:, -1], "mean": lambda x: x.mean(1)}
    return pool.get(head.pooling, lambda x: x)(states)


def record(
    source: np.ndarray, again: np.ndarray, other: np.ndarray | None, ids: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The content of parity.json."""
    names = ("jaxllm", "jax", "transformers", "torch")
    return {
        "tokens": sum(array.size for array in ids.values()),
        "largest_logit": float(np.abs(source).max()),
        "reimported": float(np.abs(source - again).max()),
        "transformers": None if other is None else float(np.abs(source - other).max()),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
