"""PEFT's folders of an adapter, adapter_config.json and adapter_model.safetensors, read.

Theirs is one module a layer, and one where a family keeps queries, keys and values fused; ours are
stacked and apart. The parts of a fused module all get its first factor, and their share of the
second.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import path
from jaxllm.models import fingerprint
from jaxllm.models.adapters.adapter import FACTORS, MAGNITUDE, Adapter, linears_of
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.adapters.names import written
from jaxllm.models.config import TEXT_HEADS, ModelConfig
from jaxllm.models.hf.family import family
from jaxllm.models.hf.importer import nested
from jaxllm.models.hf.mapping import Part, Tensor, tensors
from jaxllm.models.hf.safetensors import PICKLES, Tensors
from jaxllm.models.parameters import param_shardings
from jaxllm.nn.compute import Compute, make_compute
from jaxllm.nn.config import HeadConfig
from jaxllm.nn.module import ParamSpec

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = "base_fingerprint"  # in the metadata of our files
KINDS = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_magnitude_vector": 2,
         "lora_magnitude_vector.weight": 2}
HEADS = {"SEQ_CLS": "sequence_classification", "TOKEN_CLS": "token_classification"}
# Settings of PEFT's that make the tensors mean something else, and the values that do not.
REFUSED = ("layer_replication", "trainable_token_indices", "alora_invocation_tokens",
           "use_qalora", "lora_bias", "target_parameters", "use_bdlora", "arrow_config",
           "kasa_config", "monteclora_config", "velora_config")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # that leave the base alone


def is_peft_folder(folder: Any) -> bool:
    """Whether a folder holds an adapter of PEFT."""
    return (path(folder) / CONFIG).exists()


@dataclass(frozen=True)
class PeftFolder:
    """A folder with an adapter."""

    folder: epath.Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """adapter_config.json.

        Raises:
          UserError: it is damaged, or about something that is not read.
        """
        file = self.folder / CONFIG
        try:
            found = json.loads(file.read_text())
            kind = found["peft_type"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} is no adapter's configuration ({error!r}).") from error
        if kind != "LORA":
            raise UserError(f"{file}: peft_type={kind!r} is not read: only LORA is.")
        for name in REFUSED:
            if found.get(name):
                raise UserError(f"{file}: {name}={found[name]!r} is not read. Retrain without it.")
        if (start := found.get("init_lora_weights")) not in PLAIN_STARTS:
            raise UserError(
                f"{file}: init_lora_weights={start!r} changed the base too. Save it with "
                "path_initial_model_for_weight_conversion, as an adapter of the base as it was."
            )
        return found

    @functools.cached_property
    def tensors(self) -> Tensors:
        """adapter_model.safetensors.

        Raises:
          UserError: it is missing or damaged, or there is only a pickle.
        """
        if not (self.folder / FILE).exists():
            pickles = [p.name for p in self.folder.iterdir() if PICKLES.match(p.name)]
            only = f" Its weights are in {pickles[0]} only, a pickle, which is not read."
            raise UserError(f"{self.folder} has no {FILE}.{only if pickles else ''}")
        return Tensors(self.folder, FILE)

    @property
    def fingerprint(self) -> str:
        """What tells it from other adapters."""
        return fingerprint.of_values([self.config, fingerprint.of_tensors(self.tensors)])

    def check_base(self, found: str, name: str) -> None:
        """Refuses a base of another fingerprint, where the folder says its own.

        Raises:
          UserError: it says another.
        """
        wanted = self.tensors.metadata.get(BASE)
        if wanted and wanted != found:
            raise UserError(
                f"{self.folder} is an adapter of another base than {name!r} (fingerprint "
                f"{wanted[:12]}, not {found[:12]}): what it learned means nothing there. Its base "
                f"was {self.config.get('base_model_name_or_path')!r}."
            )

    def head(self, base: ModelConfig) -> HeadConfig:
        """The head of the base with the adapter: its own, or a new one of classes that comes along.
        """
        kind = HEADS.get(self.config.get("task_type"))
        made = family(base.family).architectures.values()
        head = next((head for head in made if head.kind == kind), None)
        if head is None or base.head.kind in TEXT_HEADS:
            return base.head
        one = dataclasses.replace(head, labels=1)
        one = dataclasses.replace(base, adapter=AdapterConfig(), head=one).completed()
        specs = linears_of(one, make_compute()).specs
        names = [t.name for t in tensors(family(base.family).names(one), nested(specs))
                 if t.parts[0].path == "head.output.kernel"]
        found = [data.shape[0] for key, data in self.tensors.items() if _plain(key) in names]
        return dataclasses.replace(head, labels=found[0]) if found else base.head

    def trained(self, base: ModelConfig, compute: Compute) -> Adapter:
        """The adapter as one of ours, for a base of this configuration.

        Raises:
          UserError: it does not fit the base.
        """
        return _Reader(self, base, compute).adapter()


class _Reader:
    """What becomes of the tensors of a folder."""

    def __init__(self, folder: PeftFolder, base: ModelConfig, compute: Compute):
        self.base = dataclasses.replace(base, adapter=AdapterConfig(), head=folder.head(base))
        self.folder, self.compute = folder, compute
        self.theirs = folder.config
        self.specs = linears_of(self.base, compute).specs
        self.wanted = {
            t.name: t
            for t in tensors(family(base.family).names(self.base), nested(self.specs))
        }
        self.whole: dict[str, dict[int | None, np.ndarray]] = defaultdict(dict)
        # of a matrix, by layer: the first factor, the second, DoRA's magnitude, and the scale
        self.found: dict[str, dict[int | None, list]] = defaultdict(dict)

    def adapter(self) -> Adapter:
        """See PeftFolder."""
        modules: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for key, data in self.folder.tensors.items():
            name = key.removeprefix(PREFIX)
            kind = next((end for end in KINDS if name.endswith(f".{end}")), None)
            if kind:
                modules[name.removesuffix(f".{kind}")][KINDS[kind]] = np.asarray(data, np.float32)
            else:
                self._take_whole(name, data)
        for module, given in modules.items():
            self._take_module(module, given)
        leaves, ranks, alphas = {}, {}, {}
        for where, layers in self.found.items():
            ranks[where], alphas[where] = self._stack(where, layers, leaves)
        for where, layers in self.whole.items():
            leaves[where] = _stacked(layers, self.specs[where], where)
        config = dataclasses.replace(self.base, adapter=self._config(ranks, alphas)).completed()
        specs = linears_of(config, self.compute).specs
        shardings = param_shardings(specs, self.compute.sharding)
        for where, value in leaves.items():
            if where not in specs or specs[where].shape != value.shape:
                raise UserError(f"{self.folder.folder}: {where} does not fit the base.")
        return Adapter(config, self.compute, {
            where: jax.device_put(value.astype(specs[where].dtype), shardings[where])
            for where, value in leaves.items()
        })

    def _take_whole(self, name: str, data: np.ndarray) -> None:
        """A tensor that replaces the base's."""
        plain = _plain(name)
        tensor = self.wanted.get(plain)
        if tensor is None or tensor.shape != data.shape:
            known = "another shape" if tensor else f"no place. {nearest(plain, self.wanted)}"
            raise UserError(f"{self.folder.folder}: in the base the tensor {name} has {known}")
        for part, value in zip(tensor.parts, tensor.cut(data), strict=True):
            self.whole[part.path][part.layer] = np.asarray(value, np.float32)

    def _take_module(self, module: str, given: Mapping[int, np.ndarray]) -> None:
        """The factors of a module of theirs, shared out to the matrices of ours."""
        tensor = self.wanted.get(f"{module}.weight")
        if tensor is None or not tensor.parts[0].inputs or not {0, 1} <= given.keys():
            raise UserError(
                f"{self.folder.folder}: the base has no linear map {module}, which the adapter is "
                f"for. {nearest(module, [n.removesuffix('.weight') for n in self.wanted])}"
            )
        a, b = given[0], given[1]
        r = a.shape[0]
        rank = _of_pattern(self.theirs.get("rank_pattern"), module, self.theirs["r"])
        alpha = _of_pattern(self.theirs.get("alpha_pattern"), module, self.theirs["lora_alpha"])
        inputs = int(np.prod(tensor.parts[0].shape[: tensor.parts[0].inputs]))
        outputs = sum(int(np.prod(part.out_dims)) for part in tensor.parts)
        if (r, (r, inputs), (outputs, r)) != (rank, a.shape, b.shape):
            raise UserError(
                f"{self.folder.folder}: the factors of {module} are {list(a.shape)} and "
                f"{list(b.shape)}; the base and {CONFIG} make them {[rank, inputs]} and "
                f"{[outputs, rank]}. It is an adapter of another base."
            )
        scale = alpha / (r**0.5 if self.theirs.get("use_rslora") else r)
        thin, second = second_factor(tensor, r), given.get(2)
        lengths = [None] * len(tensor.parts)
        if second is not None:
            lengths = vector(tensor).cut(second.reshape(-1))
        for part, own, length in zip(tensor.parts, thin.cut(b), lengths, strict=True):
            first = a.T.reshape(*part.shape[: part.inputs], r)
            self.found[part.path][part.layer] = [first, own, length, scale]

    def _stack(
        self, where: str, layers: Mapping[int | None, list], leaves: dict[str, np.ndarray]
    ) -> tuple[int, float]:
        """Puts the adapter of a matrix of all layers into `leaves`; gives its rank and alpha.

        A layer without one has zeros.
        """
        spec, stem = self.specs[where], where.removesuffix(".kernel")
        r = max(first.shape[-1] for first, *_ in layers.values())
        scale = next(iter(layers.values()))[3]
        count, inputs = spec.shape[0], spec.shape[1 : 1 + spec.inputs]
        a = np.zeros((count, *inputs, r), np.float32)
        b = np.zeros((count, r, *spec.shape[1 + spec.inputs :]), np.float32)
        lengths = {}
        for layer, (first, second, length, own) in layers.items():
            a[layer, ..., : first.shape[-1]] = first
            b[layer, : second.shape[0]] = second * (own / scale)
            if length is not None:
                lengths[layer] = length
        leaves[f"{stem}.{FACTORS[0]}"], leaves[f"{stem}.{FACTORS[1]}"] = a, b
        if self.theirs.get("use_dora"):
            shape = (count, *spec.shape[1 + spec.inputs :])
            of = dataclasses.replace(spec, shape=shape, inputs=0)
            leaves[f"{stem}.{MAGNITUDE}"] = _stacked(lengths, of, where)
        return r, scale * (r**0.5 if self.theirs.get("use_rslora") else r)

    def _config(self, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> AdapterConfig:
        names = {where: written(where.removesuffix(".kernel")) for where in ranks}
        r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))

        def unusual(values, usual):
            return tuple(dict.fromkeys(
                f"{re.escape(names[where])}={value}" for where, value in values.items()
                if value != usual
            ))

        biases = self.theirs.get("bias", "none")
        saved = dict.fromkeys(
            written(where.rpartition(".")[0]) for where in self.whole
            if not (biases != "none" and where.endswith(".bias"))
            and not (where.startswith("head.") and self.base.head.kind in TEXT_HEADS)
        )
        lora = LoraConfig(
            r=r, lora_alpha=float(alpha), lora_dropout=float(self.theirs.get("lora_dropout", 0.0)),
            bias=biases, target_modules=tuple(dict.fromkeys(names.values())),
            rank_pattern=unusual(ranks, r), alpha_pattern=unusual(alphas, alpha),
            use_rslora=bool(self.theirs.get("use_rslora")),
            use_dora=bool(self.theirs.get("use_dora")), modules_to_save=tuple(saved),
        )
        return AdapterConfig("lora", lora=lora)


def _plain(name: str) -> str:
    """A tensor's name in the model without adapters."""
    name = name.removeprefix(PREFIX)
    return name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _stacked(
    layers: Mapping[int | None, np.ndarray], spec: ParamSpec, where: str
) -> np.ndarray:
    if None in layers:
        return np.asarray(layers[None], np.float32)
    missing = [layer for layer in range(spec.shape[0]) if layer not in layers]
    if missing:
        raise UserError(
            f"The adapter has {where} for some layers and not for layer {missing[0]}: ours are for "
            "all layers alike."
        )
    return np.stack([layers[layer] for layer in range(spec.shape[0])]).astype(np.float32)


def _of_pattern(pattern: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """PEFT's look-up of a module's rank or alpha."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return usual


def second_factor(tensor: Tensor, r: int) -> Tensor:
    """Their second factor [outputs, r] as a tensor whose parts are ours [r, O…]."""
    parts = tuple(Part(p.path, p.layer, (r, *p.out_dims), 1) for p in tensor.parts)
    return Tensor(tensor.name, parts, dataclasses.replace(tensor.layout, transposed=True))


def vector(tensor: Tensor) -> Tensor:
    """A value for each of a tensor's outputs."""
    parts = tuple(Part(p.path, p.layer, p.out_dims, 0) for p in tensor.parts)
    return Tensor(tensor.name, parts, dataclasses.replace(tensor.layout, row=False))
