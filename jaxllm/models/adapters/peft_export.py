"""An adapter written as a folder of PEFT, which `peft` loads.

The reverse of `peft.py`. Where a family keeps queries, keys and values fused, the adapters of the
parts become one of the sum of their ranks, whose second factor is zero where a part has no say.
What PiSSA started from is subtracted in the same way, as PEFT does it (twice the rank), so that
the adapter is one for the base itself.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, path
from jaxllm.models.adapters.adapter import FACTORS, MAGNITUDE, STARTS, Adapter, linears_of
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.models.adapters.peft import BASE, CONFIG, FILE, PREFIX, second_factor, vector
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import family
from jaxllm.models.hf.importer import nested
from jaxllm.models.hf.mapping import Tensor, tensors
from jaxllm.models.hf.safetensors import Writer

TASKS = {
    "sequence_classification": "SEQ_CLS", "reward": "SEQ_CLS", "token_classification": "TOKEN_CLS",
    "embedding": "FEATURE_EXTRACTION",
}


def write_adapter(folder: Any, adapter: Adapter, base_name: str, base_fingerprint: str) -> None:
    """Writes an adapter as PEFT does, for its base as it was before any training.

    Raises:
      UserError: it cannot be said in PEFT's format, or has values that are not finite.
    """
    lora, config = adapter.config.adapter.lora, adapter.config
    plain = dataclasses.replace(config, adapter=AdapterConfig())
    specs = linears_of(plain, adapter.compute).specs
    wanted = tensors(family(config.family).names(config), nested(specs))
    leaves = {name: np.asarray(jax.device_get(x), np.float32) for name, x in adapter.leaves.items()}
    for name, value in leaves.items():
        if not np.isfinite(value).all():
            raise UserError(
                f"The adapter's {name} has values that are not finite (NaN or infinite): the model "
                "would write nothing. Choose another step, RUN@STEP."
            )
    written_tensors: dict[str, np.ndarray] = {}
    ranks, alphas, saved, adapted = {}, {}, [], []
    for tensor in wanted:
        module, _, end = tensor.name.rpartition(".")
        if pieces := _pieces(tensor, adapter, leaves):
            a, b, scale = _factors(tensor, pieces)
            written_tensors[f"{PREFIX}{module}.lora_A.weight"] = a
            written_tensors[f"{PREFIX}{module}.lora_B.weight"] = b
            if lora.use_dora:
                lengths = _lengths(tensor, leaves)
                written_tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = lengths
            r = a.shape[0]
            adapted.append(module)
            ranks[_template(module)] = r
            alphas[_template(module)] = scale * (r**0.5 if lora.use_rslora else r)
        elif all(part.path in leaves for part in tensor.parts):
            ours = [_at(leaves[part.path], part.layer) for part in tensor.parts]
            wrapped = end == "bias" and module in adapted
            name = f"{module}.base_layer.{end}" if wrapped else tensor.name
            written_tensors[f"{PREFIX}{name}"] = tensor.join(ours)
            if module and (end != "bias" or lora.bias == "none"):  # BART's has a bias of its own
                saved.append(module)
        elif any(part.path in leaves for part in tensor.parts):
            raise UserError(
                f"{tensor.name} is fused of {', '.join(p.path for p in tensor.parts)}, of which "
                "some train whole and some do not: PEFT cannot say that. Use --merge."
            )
    theirs = {module: tensor.layout for tensor in wanted
              for module in [tensor.name.rpartition(".")[0]]}
    content = _config_json(
        adapter.config, adapted, theirs, ranks, alphas, list(dict.fromkeys(saved)), base_name
    )
    plan = {name: (value.shape, value.dtype) for name, value in written_tensors.items()}
    writer = Writer(folder, plan, file=FILE, metadata={BASE: base_fingerprint})
    for name, value in written_tensors.items():
        writer[name][...] = value
    writer.sync()
    atomic_write_text(path(folder) / CONFIG, json.dumps(content, indent=2) + "\n")


# The index of a part, its two factors and their scale.
Piece = tuple[int, np.ndarray, np.ndarray, float]


def _pieces(tensor: Tensor, adapter: Adapter, leaves: Mapping[str, np.ndarray]) -> list[Piece]:
    """The adapters of a tensor's parts, and what is subtracted from them."""
    found = []
    for index, part in enumerate(tensor.parts):
        stem = part.path.removesuffix(".kernel")
        if f"{stem}.{FACTORS[0]}" not in leaves:
            continue
        scale = adapter.linears.scale(stem)
        for (first, second), sign in ((FACTORS, 1), (STARTS, -1)):
            if f"{stem}.{first}" in leaves:
                a, b = (_at(leaves[f"{stem}.{key}"], part.layer) for key in (first, second))
                found.append((index, a, sign * b, scale))
    return found


def _factors(tensor: Tensor, pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray, float]:
    """Their two factors [r, inputs] and [outputs, r], and the scale."""
    total, scale = sum(a.shape[-1] for _, a, _, _ in pieces), pieces[0][3]
    first = [a.reshape(-1, a.shape[-1]).T for _, a, _, _ in pieces]
    seconds = [np.zeros((total, *part.out_dims), np.float32) for part in tensor.parts]
    row = 0
    for index, a, b, own in pieces:
        seconds[index][row : row + a.shape[-1]] = b * (own / scale)
        row += a.shape[-1]
    return np.concatenate(first), second_factor(tensor, total).join(seconds), scale


def _lengths(tensor: Tensor, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    found = []
    for part in tensor.parts:
        name = f"{part.path.removesuffix('.kernel')}.{MAGNITUDE}"
        if name not in leaves:
            raise UserError(
                f"{tensor.name} is fused of {', '.join(p.path for p in tensor.parts)}, of which "
                "some have DoRA's magnitudes and some have not: PEFT cannot say that. Use --merge."
            )
        found.append(_at(leaves[name], part.layer))
    return vector(tensor).join(found)


def _at(value: np.ndarray, layer: int | None) -> np.ndarray:
    return value if layer is None else value[layer]


def _template(module: str) -> str:
    """A regex for the same module of every layer."""
    head, number, rest = re.match(r"(.*?)(\.\d+\.|$)(.*)", module).groups()
    return re.escape(head) + (r"\.\d+\." if number else "") + re.escape(rest)


def _config_json(
    config: ModelConfig, adapted: list[str], theirs: Mapping[str, Any], ranks: Mapping[str, int],
    alphas: Mapping[str, float], saved: list[str], base_name: str,
) -> dict[str, Any]:
    lora = config.adapter.lora
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    pair = config.architecture == "encoder_decoder"
    task = TASKS.get(config.head.kind, "SEQ_2_SEQ_LM" if pair else "CAUSAL_LM")
    return {
        "peft_type": "LORA", "task_type": None if config.head.kind == "masked_lm" else task,
        "base_model_name_or_path": base_name, "r": r, "lora_alpha": _number(alpha),
        "lora_dropout": lora.lora_dropout, "bias": lora.bias, "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora, "init_lora_weights": True, "inference_mode": True,
        "fan_in_fan_out": not theirs[adapted[0]].transposed,
        "target_modules": _selecting(adapted, theirs),
        "modules_to_save": _selecting(saved, theirs, regex=False) or None,
        "rank_pattern": {name: value for name, value in ranks.items() if value != r},
        "alpha_pattern": {n: _number(value) for n, value in alphas.items() if value != alpha},
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _selecting(
    chosen: list[str], known: Iterable[str], regex: bool = True
) -> list[str] | str:
    """The last names of modules where these name no others, else a regex or the whole names."""
    ends = sorted({module.rpartition(".")[2] for module in chosen})
    if {module for module in known if module.rpartition(".")[2] in ends} == set(chosen):
        return ends
    return "|".join(sorted({_template(module) for module in chosen})) if regex else chosen
