"""Adapters put onto a Transformer when it is made: which matrices get one, and what stays frozen.

What is not trained and only ever used in the dtype of compute (matrices, tables of vectors) is
held in it: half the bytes on an accelerator, and the same outputs.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.core.errors import UserError
from jaxllm.models.adapters.config import ALL_LINEAR, LoraConfig, patterns
from jaxllm.models.adapters.names import STACKS, modules, select, written
from jaxllm.models.adapters.names import Module as Named
from jaxllm.models.config import TEXT_HEADS, ModelConfig
from jaxllm.nn.layers import Embedding, Linear
from jaxllm.nn.lora import Factor, Lora, norms
from jaxllm.nn.module import Module, Param, normal, own_params, submodules, zeros
from jaxllm.nn.quantised import Quantised, by_layer, make_packing

DEFAULT_TARGETS = ("query", "value")  # PEFT's of most families


@dataclass(frozen=True)
class Target:
    """A matrix that gets an adapter."""

    module: Named
    r: int
    alpha: float

    def scale(self, lora: LoraConfig) -> float:
        """What the product of the two factors is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if lora.use_rslora else self.r)


def attach(model: Module, config: ModelConfig, key: jax.Array) -> None:
    """Gives the model the adapters of `config.adapter`; quantises and freezes the rest.

    The new adapters change nothing: their second factor is zero.

    Raises:
      UserError: a name that no module has, an adapter that cannot be there, or one with a rank
        above its matrix'.
    """
    adapter = config.adapter
    adapter.check("tune")
    if adapter.method != "lora":
        return
    lora, found = adapter.lora, dict(submodules(model))
    named = _named(config, found)
    saved = select(named, lora.modules_to_save, "tune.lora.modules_to_save", "no module")
    whole = tuple(module.path for module in saved)
    if config.head.kind in TEXT_HEADS:  # as new as the task
        whole += ("head",)
    targets = find_targets(config, named, {p for p, m in found.items() if isinstance(m, Linear)})
    _freeze(model, found, whole, {t.module.path for t in targets}, lora.bias)
    for path, module in found.items():
        if isinstance(module, (Linear, Embedding)) and not _below(path, whole):
            _narrow(module)
        if isinstance(module, Linear) and STACKS.search(path) and not _below(path, whole):
            _quantise(module, config)
    for target in targets:
        path = target.module.path
        if _below(path, whole):
            raise UserError(
                f"tune.lora: {written(path)} is in target_modules and in modules_to_save: it "
                "cannot have an adapter and train whole. Take it out of one of them."
            )
        _adapt(found[path], target, lora, jax.random.fold_in(key, zlib.crc32(path.encode())))


def find_targets(
    config: ModelConfig, named: list[Named], linear: set[str]
) -> list[Target]:
    """The matrices with an adapter, each with its rank; `linear` has the paths of linear maps.

    Raises:
      UserError: see `attach`.
    """
    lora, field = config.adapter.lora, "tune.lora.target_modules"
    matrices = [m for m in named if m.path in linear and STACKS.search(m.path)]
    wanted = lora.target_modules or DEFAULT_TARGETS
    if ALL_LINEAR in wanted:
        chosen = matrices
    else:
        for pattern in wanted:
            others = [m for m in named if m not in matrices and m.matched(pattern)]
            if others and not any(m.matched(pattern) for m in matrices):
                name = written(others[0].path)
                raise UserError(
                    f"{field}: {pattern!r} names {name}, which gets no adapter: only the linear "
                    f"maps of the layers do. Train it whole: tune.lora.modules_to_save={(name,)}."
                )
        chosen = select(matrices, wanted, field, "no linear map of the layers")
    ranks = _numbers(lora.rank_pattern, "tune.lora.rank_pattern", int, chosen)
    alphas = _numbers(lora.alpha_pattern, "tune.lora.alpha_pattern", float, chosen)
    return [
        Target(m, int(ranks.get(m.path, lora.r)), alphas.get(m.path, lora.lora_alpha))
        for m in chosen
    ]


def _numbers(
    entries: tuple[str, ...], field: str, kind: type, chosen: list[Named]
) -> dict[str, float]:
    """The number of each module that an entry is about."""
    found: dict[str, float] = {}
    for pattern, number in patterns(entries, field, kind):
        for module in select(chosen, (pattern.pattern,), field, "no module with an adapter"):
            found.setdefault(module.path, number)
    return found


def _named(config: ModelConfig, found: dict[str, Module]) -> list[Named]:
    params = [
        f"{path}.{name}" for path, module in found.items() for name, _ in own_params(module)
    ]
    layers = {}
    for path, module in found.items():
        stack = STACKS.search(f"{path}.")
        for _, param in own_params(module):
            if stack:
                layers[path[: stack.end() - 1]] = param[...].shape[0]
    return modules(config, params, layers)


def _below(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)


def _freeze(
    model: Module, found: dict[str, Module], whole: tuple[str, ...], targets: set[str], bias: str
) -> None:
    for path, module in {"": model, **found}.items():
        for name, param in own_params(module):
            tuned = name == "bias" and (bias == "all" or (bias == "lora_only" and path in targets))
            param.set_metadata(trained=tuned or _below(path, whole))


def _narrow(module: Linear | Embedding) -> None:
    name = "kernel" if isinstance(module, Linear) else "table"
    param, dtype = getattr(module, name), module.compute.dtype
    if dtype.itemsize < param[...].dtype.itemsize:
        setattr(module, name, Param(param[...].astype(dtype), **param.get_metadata()))


def _quantise(linear: Linear, config: ModelConfig) -> None:
    adapter = config.adapter
    if adapter.quantization == "none":
        return
    shape = linear.kernel[...].shape[-len(linear.axes) :]
    packing = make_packing(
        adapter.quantization, shape[: linear.inputs], shape[linear.inputs :],
        adapter.double_quantization,
    )
    linear.kernel = Quantised(linear.kernel, packing, linear.compute.sharding)


def _adapt(linear: Linear, target: Target, lora: LoraConfig, key: jax.Array) -> None:
    compute, kernel = linear.compute, linear.kernel
    axes = linear.axes
    if isinstance(kernel, Quantised):
        shape = (*kernel.packing.inputs, *kernel.packing.outputs)
        lead = kernel.arrays()["codes"].shape[:1]
    else:
        shape = kernel[...].shape[1:]
        lead = kernel[...].shape[:1]
    inputs, outputs = shape[: linear.inputs], shape[linear.inputs :]
    in_axes, out_axes = axes[: linear.inputs], axes[linear.inputs :]
    most = min(math.prod(inputs), math.prod(outputs))
    if target.r > most:
        raise UserError(
            f"tune.lora.r={target.r} is above the rank of {written(target.module.path)}, a matrix "
            f"of {math.prod(inputs)} x {math.prod(outputs)}: use {most} at most, or "
            f"tune.lora.rank_pattern=('{written(target.module.path)}={most}',)."
        )

    def param(init, shape, axes, inputs=0):
        value = init(key, (*lead, *shape), compute.param_dtype)
        return Param(value, axes=("layers", *axes), inputs=inputs, trained=True)

    def factor(init, shape, axes, inputs):
        start = None
        if lora.init_lora_weights == "pissa":
            start = param(zeros, shape, axes)
        return Factor(param(init, shape, axes, inputs), start)

    magnitude = None
    if lora.use_dora:
        magnitude = param(zeros, outputs, out_axes)
        magnitude[...] = lengths(linear).astype(compute.param_dtype)
    first = normal(1 / target.r) if lora.init_lora_weights == "gaussian" else _kaiming(inputs)
    linear.lora = Lora(
        factor(first, (*inputs, target.r), (*in_axes, None), len(inputs)),
        factor(zeros, (target.r, *outputs), (None, *out_axes), 1), magnitude,
        scale=target.scale(lora), dropout=lora.lora_dropout,
        place=zlib.crc32(target.module.path.encode()) & 0x7FFFFFFF,
    )


def _kaiming(inputs: tuple[int, ...]):
    """Uniform within 1 / √inputs: torch's kaiming_uniform_ with a = √5, as of a linear layer."""
    bound = 1 / math.sqrt(math.prod(inputs))
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def lengths(linear: Linear) -> jax.Array:
    """The length of each output's weights of a stacked linear map, [L, O…] float32."""
    kernel, sharding = linear.kernel, linear.compute.sharding
    if isinstance(kernel, Quantised):
        unpack = partial(kernel.packing.unpack, dtype=jnp.float32)
        return by_layer(lambda arrays: norms(unpack(arrays), linear.inputs), sharding)(
            kernel.arrays()
        )
    return by_layer(lambda matrix: norms(matrix, linear.inputs), sharding)(kernel[...])
