"""What a recipe asks of the machine: sizes, lengths, the mesh, and whether they fit each other."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from jaxllm.core.axes import axis_sizes, divisors
from jaxllm.core.config import MeshConfig
from jaxllm.core.errors import UserError
from jaxllm.data.objectives import spans
from jaxllm.models.config import ModelConfig
from jaxllm.nn.kernels.tiles import tiles
from jaxllm.plan.adapters import adapters, method_of
from jaxllm.plan.chips import Chip
from jaxllm.plan.flops import CUDNN, SPLASH, XLA, Kernel, Lengths
from jaxllm.plan.shapes import ModelShape, Weight, model_shape
from jaxllm.train.config import Config

DTYPE_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}
AXES = ("data", "fsdp", "expert", "context", "tensor", "stage")


@dataclass(frozen=True)
class Workload:
    """A training step, without the machine and the mesh that it runs on."""

    shape: ModelShape
    lengths: Lengths
    rows: int  # of a step
    accumulation: int  # microbatches that follow one another
    steps: int
    optimizer: str
    moment_bytes: int
    param_bytes: int
    compute_bytes: int
    attention: str  # as train.attention names it
    optimizer_on_host: bool = False  # between updates
    method: str = "full"  # of tuning, as plan/adapters.py names it
    trained: float = 0.0  # parameters that train, where not all do

    @property
    def model(self) -> ModelConfig:
        """The model's configuration."""
        return self.shape.config

    @property
    def tokens(self) -> int:
        """Tokens that the model reads in a step."""
        return self.rows * self.lengths.total

    def kernel(self, chip: Chip, context: int = 1) -> Kernel:
        """The attention kernel that `nn/kernels/attention.py` would choose on this chip.

        `context` is the mesh's: it cuts the queries.
        """
        config = self.model
        plain = (
            self.attention == "xla" or config.positions.kind in ("alibi", "relative")
            or config.bidirectional_prefix or config.attention.dropout > 0
        )
        if chip.torus:
            uneven = self.lengths.own % (128 * context)
            return XLA if plain or uneven else self._splash(chip, context)
        wide = config.attention.head_dim > 128 or config.attention.softcap
        return XLA if plain or wide or context > 1 else CUDNN

    def _splash(self, chip: Chip, context: int) -> Kernel:
        """Splash with the tiles that `nn/kernels/tiles.py` takes on this chip."""
        found = tiles(
            chip.kind, self.lengths.own, context, self.model.attention.head_dim, self.compute_bytes
        )
        if found is None:
            return SPLASH
        return Kernel(SPLASH.name, max(found.query, found.key), 5 if found.fused else 7)


@dataclass(frozen=True)
class Mesh:
    """The sizes of the mesh axes; they multiply to the devices."""

    data: int = 1
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1
    stage: int = 1

    @property
    def devices(self) -> int:
        """Their product."""
        return math.prod(getattr(self, axis) for axis in AXES)

    @property
    def groups(self) -> int:
        """Groups of devices that share the rows."""
        return self.data * self.fsdp * self.expert

    def words(self) -> str:
        """Such as "fsdp 16 x tensor 4"."""
        used = [f"{axis} {getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return " x ".join(used) or "one device"


def make_workload(config: Config) -> Workload:
    """The workload of a resolved configuration, whose model.vocab_size is set."""
    train, adapter, shape = config.train, config.model.adapter, model_shape(config.model)
    method, lora = method_of(adapter), adapter.lora
    return Workload(
        shape=shape, lengths=lengths_of(config),
        rows=config.data.global_batch_size, accumulation=train.grad_accumulation,
        steps=train.steps, optimizer=config.optimizer.name,
        moment_bytes=DTYPE_BYTES.get(config.optimizer.moment_dtype, 4),
        param_bytes=4 if train.param_dtype == "auto" else DTYPE_BYTES.get(train.param_dtype, 4),
        compute_bytes=DTYPE_BYTES.get(train.dtype, 2), attention=train.attention,
        optimizer_on_host=config.optimizer.placement == "host", method=method,
        trained=0.0 if method == "full" else adapters(shape, lora.r, lora.target_modules),
    )


def lengths_of(config: Config) -> Lengths:
    """Tokens of a row, as the objective will make them."""
    data = config.data
    length = data.sequence_length
    if config.model.architecture == "encoder_decoder":
        target = data.target_length
        if not target and data.objective == "span_corruption":
            noise = (data.spans.density, data.spans.mean_length)
            target = spans.lengths(spans.raw_length(length, *noise), *noise)[1]
        return Lengths(target or length, length)
    scored = 0
    if data.objective == "masked" and not data.masked.whole_word:
        scored = int(data.masked.rate * (length - 2)) + 1
    return Lengths(length, 0, scored)


def resolve_mesh(config: MeshConfig, devices: int, slices: int = 1) -> Mesh:
    """The mesh of a recipe on so many devices, its -1 filled in; slices count as replicas.

    Raises:
      UserError: the axes do not multiply to the devices, or `mesh.dcn` is not the slices' number.
    """
    if config.dcn != slices:
        raise UserError(
            f"mesh.dcn={config.dcn} is not the number of slices, {slices}. Set mesh.dcn={slices}."
        )
    if config.stage == 1 and (config.microbatches, config.repeats) != (0, 1):
        raise UserError(
            f"mesh.microbatches={config.microbatches} and mesh.repeats={config.repeats} are a "
            "pipeline's: set mesh.stage, or leave them at 0 and 1."
        )
    sizes = axis_sizes(config, devices)
    sizes["data"] *= sizes.pop("dcn")
    return Mesh(**sizes)


def check_mesh(work: Workload, mesh: Mesh) -> None:
    """Refuses a mesh that does not divide the model or the batch.

    Raises:
      UserError: naming the flag and the nearest values that divide.
    """
    problem = fault(work, mesh)
    if problem:
        raise UserError(problem)


def fault(work: Workload, mesh: Mesh) -> str:
    """Why this mesh cannot run this workload; "" when it can."""
    model = work.model
    heads, kv_heads = model.attention.heads, model.attention.kv_heads
    sizes = (
        ("tensor", heads, "model.attention.heads"),
        ("tensor", kv_heads, "model.attention.kv_heads"),
        ("tensor", model.mlp.width, "model.mlp.width"),
        ("tensor", model.vocab_size, "model.vocab_size"),
        ("fsdp", model.width, "model.width"),
        ("context", work.lengths.own, "data.sequence_length"),
        ("context", work.lengths.encoder or work.lengths.own, "data.sequence_length"),
        *(("stage", tower.layers, "model.layers") for tower in work.shape.towers),
    )
    for axis, size, field in sizes:
        parts = getattr(mesh, axis)
        if size % parts:
            beyond = f"there are only {size}" if parts > size else f"{size} is no multiple of it"
            return (
                f"mesh.{axis}={parts} cannot cut {field}={size}: {beyond}. "
                f"Nearest values that divide it: {_nearest_divisors(size, parts)}."
            )
    parts = mesh.groups * work.accumulation
    if work.rows % parts:
        below, above = work.rows // parts * parts, (work.rows // parts + 1) * parts
        choices = " or ".join(str(n) for n in (below, above) if n)
        times = f" in {work.accumulation} microbatches each" if work.accumulation > 1 else ""
        return (
            f"data.global_batch_size={work.rows} cannot be shared by {mesh.groups} groups of "
            f"devices (mesh.data x mesh.fsdp x mesh.expert){times}. Use "
            f"data.global_batch_size={choices}, or give devices to mesh.context or mesh.tensor."
        )
    return ""


def per_device(weights: tuple[Weight, ...] | list[Weight], mesh: Mesh, bytes_each: float) -> float:
    """Bytes of these parameters that a device holds."""
    return bytes_each * sum(
        w.size / (mesh.fsdp if w.fsdp else 1) / (mesh.tensor if w.tensor else 1) for w in weights
    )


def with_rows(work: Workload, rows: int) -> Workload:
    """The same with another batch."""
    return dataclasses.replace(work, rows=rows)


def _nearest_divisors(size: int, wanted: int) -> str:
    found = sorted(divisors(size), key=lambda n: abs(math.log(n / wanted)))[:3]
    return ", ".join(map(str, sorted(found)))
