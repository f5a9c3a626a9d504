"""The configuration of a training run: the sections of every layer under one root."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from jaxllm.core.config import MeshConfig, Wide, check_ranges, resolve, to_config_dict
from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import check_architecture
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig, model_section, resolve_model
from jaxllm.models.hf.family import family
from jaxllm.train.tune import TuneConfig, check_tune, with_replay

# What train.remat="auto", `jaxllm plan` and `jaxllm check` go by.
HEADROOM = 0.05  # of a device's memory, that stays free
# Of a host's memory, that its devices' arrays may take; the rest is the input pipeline's, a
# checkpoint's and the runtime's. Assumed.
HOST_SHARE = 0.8


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer the run expects."""

    path: str = ""  # a tokenizer folder; "": the one that the data was prepared with


@dataclass(frozen=True)
class OptimizerConfig:
    """An optax optimizer and its learning-rate schedule."""

    name: str = "adamw"  # adamw | adafactor | lion | muon | sgd
    learning_rate: float = 3e-4  # at the peak of the schedule
    schedule: str = "cosine"  # constant | linear | cosine | wsd | rsqrt
    warmup_steps: int = 0  # linear, from 0
    final_fraction: float = 0.1  # of the peak, where linear, cosine and wsd end
    decay_fraction: float = 0.2  # of the steps, that wsd decays over
    weight_decay: float = 0.1  # decoupled; on matrices, not on norms and biases
    decay_embeddings: bool = False
    max_grad_norm: float = 1.0  # global norm that gradients are clipped to; 0: off
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    moment_dtype: str = "float32"  # of the first moment
    placement: str = "device"  # device | host: where its state lies between updates


@dataclass(frozen=True)
class TrainConfig:
    """The step, its memory and its reporting."""

    steps: int = 1000
    epochs: float = 0.0  # passes over the data, which then decide the steps; 0: `steps` does
    grad_accumulation: int = 1  # microbatches per step
    init_from: str = ""  # model whose parameters to start from, as --model names it
    # auto | none | dots | one of full, attention, kv, projections, mlp, which may end in
    # _input_offload or _offload; see nn/compute.py
    remat: str = "none"
    attention: str = "auto"  # auto | xla | cudnn | splash
    dtype: str = "auto"  # of compute; auto: bfloat16 on accelerators, float32 on a CPU
    param_dtype: str = "float32"
    unroll: int = 1  # layers per iteration of the layer loop
    xla_preset: bool = True  # the options of XLA that suit the chip
    xla_options: tuple[str, ...] = ()  # further ones, "name=value"
    mlp_chunk: int = 0  # tokens per device whose hidden units a backward pass holds; 0: by the chip
    loss_chunk: int = 0  # tokens per row whose logits exist at once; 0: by the device
    z_loss: float = 0.0  # weight of log²(Z), PaLM's auxiliary loss
    label_smoothing: float = 0.0
    log_every: int = 10
    eval_every: int = 0  # steps; 0: only after the last


@dataclass(frozen=True)
class EvalConfig:
    """What is measured during training, besides the loss on the validation split."""

    batch_size: int = 0  # rows per evaluation step; 0: the training batch
    batches: int = 0  # of the validation split; 0: all of it
    evaluators: tuple[str, ...] = ()  # files of evals/evaluators: classification, entity_f1, …
    prompts: tuple[str, ...] = ()  # continued at every evaluation, to look at
    sample_tokens: int = 100


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and which saved states stay."""

    every: int = 0  # steps; 0: only at the end and when the run is stopped
    keep: int = 2  # the newest
    keep_best: int = 1  # those of lowest validation loss


@dataclass(frozen=True)
class Config:
    """A training run."""

    seed: Wide = 42  # of 32 bits
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def default_config() -> ConfigDict:
    """Every field of a training run with its default; what recipes start from."""
    config = to_config_dict(Config())
    config.model = model_section()
    return config


def pretrain(
    config: ConfigDict, preset: str, *, length: int, batch: int, rate: float, warmup: int,
    steps: int,
) -> None:
    """What recipes from scratch share: a preset with the tokenizer's vocabulary, on data/text."""
    config.model.preset = preset
    config.model.vocab_size = 0
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.data.update(sequence_length=length, global_batch_size=batch)
    config.optimizer.update(learning_rate=rate, warmup_steps=warmup)
    config.train.steps = steps


def on_slice(config: ConfigDict, variant: str, slices: dict[str, dict[str, Any]]) -> None:
    """What recipes for rented slices share: variant NAME sets the dotted fields of `slices[NAME]`.

    The first slice is that of the recipe without a variant; weights are kept and gathered fully
    sharded, the data lie in data/text.
    """
    config.data.mixture = {"text": {"path": "data/text", "weight": 1.0}}
    config.mesh.fsdp = -1
    config.checkpoint.update(every=500, keep=3, keep_best=0)
    config.train.eval_every = 1000
    config.eval.batches = 16
    chosen = slices.get(variant) or next(iter(slices.values()))
    config.update_from_flattened_dict(chosen)


def finetune(
    config: ConfigDict, base: str, rows: dict[str, str], *, objective: str, length: int,
    batch: int, rate: float, steps: int,
) -> None:
    """What recipes of fine-tuning share: a base, rows by name, TRL's optimizer settings."""
    config.train.init_from = base
    config.data.mixture = {name: {"path": path} for name, path in rows.items()}
    config.data.update(objective=objective, sequence_length=length, global_batch_size=batch)
    config.optimizer.update(
        learning_rate=rate, schedule="linear", final_fraction=0.0, weight_decay=0.0, b2=0.999,
        warmup_steps=steps // 30,
    )
    config.train.update(steps=steps, remat="attention", eval_every=max(steps // 10, 1))
    config.checkpoint.every = max(steps // 10, 1)


def shrink_tuning(config: ConfigDict, base: str, rows: dict[str, str]) -> None:
    """Makes a recipe of fine-tuning one of seconds on a CPU, on the bundled rows: `debug`.

    The base is the debug run of a recipe from scratch:
      jaxllm train --config=configs/BASE.py:debug --workdir=runs/debug/BASE
    """
    config.train.init_from = f"runs/debug/{base}"
    config.data.mixture = {
        name: {"path": f"sample:rows/{path}"} for name, path in rows.items()
    }
    config.data.update(sequence_length=64, global_batch_size=8, truncate=True)
    config.mesh = to_config_dict(MeshConfig())
    config.train.update(steps=20, grad_accumulation=1, remat="none", log_every=5, eval_every=10)
    config.optimizer.warmup_steps = 2
    config.checkpoint.every = 10
    config.eval.batches = 2


def shrink(config: ConfigDict, preset: str) -> None:
    """Makes a recipe one of seconds on a CPU, on the bundled text: what variant `debug` is.

    The data (manifest.COMMANDS names it to who lacks it):
      jaxllm prepare --config=configs/data/shakespeare.py:special --workdir=data/shakespeare
    """
    config.model = model_section()
    config.model.preset = preset
    config.data.mixture = {"shakespeare": {"path": "data/shakespeare", "weight": 1.0}}
    config.data.sequence_length = 64
    config.data.global_batch_size = 8
    config.mesh = to_config_dict(MeshConfig())
    config.train.update(steps=20, grad_accumulation=1, remat="none", log_every=5, eval_every=10)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=5)
    config.checkpoint.every = 10
    config.eval.batches = 2


def resolve_config(values: ConfigDict, base_model: ModelConfig | None = None) -> Config:
    """The frozen configuration of a recipe's ConfigDict.

    `base_model` is the model of `train.init_from`, which `model` then changes.

    Raises:
      UserError: an unknown field, a wrong type, or values that cannot work.
    """
    sections = {name: values[name] for name in values if name != "model"}
    config = resolve(Config, sections)
    model = resolve_model(values.model, base_model)
    mixture = with_replay(config.data.mixture, config.tune.replay)
    used = {name: s for name, s in mixture.items() if s.weight != 0}
    if config.data.mixture and not used:
        raise UserError(
            f"data.mixture: every source ({', '.join(config.data.mixture)}) has weight 0, which "
            "leaves it out. Give one of them a positive weight."
        )
    labels = config.data.labels
    if config.data.objective in HEADS:  # a model that knows its classes keeps their order
        labels = labels or model.head.label_names
    data = dataclasses.replace(config.data, mixture=used, labels=labels)
    model = dataclasses.replace(_with_head(model, data.objective), adapter=config.tune.adapter())
    config = dataclasses.replace(config, model=model, data=data)
    _check(config)
    check_tune(config.tune, config.train.init_from)
    if base_model:
        _check_base(config, base_model)
    if base_model or not config.train.init_from:  # else the model is not known yet
        _check_model(config)
    return config


RANGES = {
    "optimizer.learning_rate": "[0, inf)", "optimizer.weight_decay": "[0, inf)",
    "optimizer.max_grad_norm": "[0, inf)", "optimizer.eps": "(0, inf)",
    "optimizer.b1": "[0, 1)", "optimizer.b2": "[0, 1)", "optimizer.momentum": "[0, 1)",
    "optimizer.final_fraction": "[0, 1]", "optimizer.decay_fraction": "(0, 1]",
    "train.epochs": "[0, inf)", "train.z_loss": "[0, inf)", "train.label_smoothing": "[0, 1)",
    "data.global_batch_size": "[1, 1e7]", "eval.batch_size": "[0, 1e7]",
}


def _check(config: Config) -> None:
    train, data = config.train, config.data
    at_least_one = {
        "train.steps": train.steps, "train.grad_accumulation": train.grad_accumulation,
        "train.log_every": train.log_every, "train.unroll": train.unroll,
        "data.sequence_length": data.sequence_length,
        "data.global_batch_size": data.global_batch_size, "checkpoint.keep": config.checkpoint.keep,
        "eval.sample_tokens": config.eval.sample_tokens,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")
    not_negative = {
        "train.eval_every": train.eval_every, "train.loss_chunk": train.loss_chunk,
        "train.mlp_chunk": train.mlp_chunk,
        "eval.batches": config.eval.batches, "eval.batch_size": config.eval.batch_size,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_best": config.checkpoint.keep_best,
    }
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"{name}={value} must not be negative.")
    check_ranges(config, "", RANGES)
    usual = EvalConfig.sample_tokens
    if config.eval.sample_tokens != usual and not config.eval.prompts:
        raise UserError(
            f"eval.sample_tokens={config.eval.sample_tokens} has no effect: eval.prompts is empty. "
            f"Leave it at {usual}, or name prompts to continue."
        )


# The heads that an objective trains; the others train those that predict tokens.
HEADS = {
    "masked": LANGUAGE_HEADS, "classification": ("sequence_classification",),
    "token_classification": ("token_classification",),
}


def _with_head(model: ModelConfig, objective: str) -> ModelConfig:
    """The model with the head that its family has for a classification, if that is the objective.

    How many classes there are is the data's to say, unless the model has such a head already.
    """
    (kind, *others) = HEADS.get(objective, LANGUAGE_HEADS)
    if others or model.head.kind == kind:
        return model
    found = [h for h in family(model.family).architectures.values() if h.kind == kind]
    if not found:
        raise UserError(
            f"data.objective={objective!r} needs a head of model.head.kind={kind!r}, which the "
            f"family {model.family!r} has not. Use a model of another family, such as bert."
        )
    head = dataclasses.replace(found[0], labels=0, dropout=model.head.dropout or model.dropout)
    return dataclasses.replace(model, head=head)


def _check_base(config: Config, base: ModelConfig) -> None:
    """Refuses a model without a head that predicts tokens: there are no weights to go on from."""
    if base.head.kind in (*LANGUAGE_HEADS, *HEADS.get(config.data.objective, ())):
        return
    classes = family(base.family).architectures
    able = [name for name, head in classes.items() if head.kind in LANGUAGE_HEADS]
    raise UserError(
        f"train.init_from={config.train.init_from!r} holds a model with model.head.kind="
        f"{base.head.kind!r} and no head that predicts tokens, so there are no such weights to go "
        "on from. Name a run of `jaxllm train`, or a folder of "
        f"{' or '.join(able) or 'a language model'}."
    )


def _check_model(config: Config) -> None:
    """Refuses a model that cannot learn from the objective."""
    model, objective = config.model, config.data.objective
    model.check_length(config.data.sequence_length, "data.sequence_length")
    check_architecture(objective, model.architecture)
    if (objective == "prefix_lm") != model.bidirectional_prefix:
        wanted = objective == "prefix_lm"
        raise UserError(
            f"data.objective={objective!r} and model.bidirectional_prefix={not wanted} do not go "
            f"together: set model.bidirectional_prefix={wanted}, which generation reads too."
        )
    if model.head.kind == "masked_lm" and objective != "masked":
        raise UserError(
            f"model.head.kind='masked_lm' and data.objective={objective!r} do not go together: "
            "that head fills in masked tokens. Set model.head.kind='lm', or "
            "data.objective='masked' with an encoder."
        )
    if model.head.kind not in (able := HEADS.get(objective, LANGUAGE_HEADS)):
        raise UserError(
            f"model.head.kind={model.head.kind!r} cannot learn from data.objective={objective!r}: "
            f"use {' or '.join(able)}."
        )
