"""What a family's file declares, and the search for the family of a config.json."""

from __future__ import annotations

import dataclasses
import importlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxllm.core.config import replace_fields
from jaxllm.core.errors import UserError, nearest
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig, families
from jaxllm.models.hf.fields import Json, Rule, unsupported
from jaxllm.models.hf.weights import Table
from jaxllm.nn.config import HeadConfig

# Keys that no computation of ours depends on: bookkeeping, generation defaults and outputs.
HARMLESS = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "gradient_checkpointing", "id2label", "is_encoder_decoder", "label2id",
    "length_penalty", "pruned_heads",
    "mask_token_id", "max_length", "min_length", "model_type", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "problem_type",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version",
    "typical_p", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_return_dict",
})

# Fields that only training reads: config.json need not be able to say them.
TRAINING_ONLY = ("init", "dropout", "embedding.dropout", "attention.dropout", "mlp.dropout",
                 "head.dropout", "adapter")

# Fields that only the one or the other sort of head reads.
LANGUAGE_HEAD = ("head.bias", "head.scaled", "head.activation")
TEXT_HEAD = ("head.labels", "head.pooling", "head.dense", "head.classifier_bias")


@dataclass(frozen=True)
class Family:
    """A family of models in the Hugging Face world."""

    model_type: str  # in config.json
    # transformers' classes with the head that each has; the first is what a config.json that
    # names none is taken for
    architectures: Mapping[str, HeadConfig]
    base: ModelConfig  # what all members share
    config: tuple[Rule, ...]
    weights: Table
    prefix: str = ""  # of tensors below the head, absent where the folder holds no head
    also: tuple[str, ...] = ()  # further model types that are read
    ignored: tuple[str, ...] = ()  # patterns of tensors that carry no weights
    dropped: tuple[str, ...] = ()  # of weights that a model of ours with another head lacks
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)  # classes: why not
    # tensors that may be there twice: name, and the one that it must equal when the model is tied
    twins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # the one of `twins` that, where it differs, unties a model whatever config.json says (T5)
    untied_with: str = ""
    # tensors that transformers wants beside the one that it reads, whose copy is written for them
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)  # old endings: new
    harmless: frozenset[str] = frozenset()  # keys of its own that decide nothing

    def read(self, theirs: Json) -> ModelConfig:
        """The ModelConfig of a config.json.

        Raises:
          UserError: a key is missing, unknown, or asks for what is not implemented.
        """
        changes: dict[str, Any] = {"head": self._read_head(theirs)}
        if "quantization_config" in theirs:
            raise UserError(
                "config.json: quantization_config says that the weights are quantised, which are "
                "not read. Download the model in bfloat16 or float32."
            )
        known = {key for rule in self.config for key in rule.keys} | HARMLESS | self.harmless
        pair = self.base.architecture == "encoder_decoder"
        for key, value in (("is_encoder_decoder", pair), ("pruned_heads", {})):
            if theirs.get(key, value) != value:
                raise unsupported(key, theirs[key], [value])
        for key in theirs:
            if key not in known:
                raise UserError(
                    f"config.json: {key}={theirs[key]!r} is unknown for model_type="
                    f"{theirs.get('model_type')!r}; ignored, it could make the model compute "
                    f"something else. {nearest(key, known, listed=False)} Remove it if it decides "
                    "nothing."
                )
        for rule in self.config:
            changes.update(rule.read(theirs))
        start = theirs.get("decoder_start_token_id")
        if self.base.architecture == "encoder_decoder" and start is not None:
            changes["decoder_start_id"] = start
        # head.* of the rules come after the head itself
        _check_types(self.base, changes)
        return replace_fields(self.base, changes).completed()

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """The config.json of a model.

        Raises:
          UserError: the model has a mechanism that this family's config.json cannot say.
        """
        theirs: dict[str, Any] = {"model_type": self.model_type}
        theirs["architectures"] = [self.architecture_of(ours)]
        for rule in self.config:
            theirs.update(rule.write(ours))
        if ours.head.labels:
            names = ours.head.label_names or _unnamed(ours.head.labels)
            theirs["id2label"] = {str(i): name for i, name in enumerate(names)}
            theirs["label2id"] = {name: i for i, name in enumerate(names)}
        if ours.decoder_start_id >= 0:
            theirs["decoder_start_token_id"] = ours.decoder_start_id
        try:
            again = self.read(theirs)
        except UserError as error:
            raise UserError(
                f"A {self.model_type!r} config.json cannot say this model; read again it would be "
                f"refused: {error}"
            ) from error
        if lost := differences(ours, again):
            raise UserError(
                f"A {self.model_type!r} config.json cannot say {'; '.join(lost[:3])}. Export a "
                "model of another family, or restore these fields."
            )
        return theirs

    def architecture_of(self, ours: ModelConfig) -> str:
        """transformers' class for a model with this head.

        Raises:
          UserError: there is none.
        """
        kind = ours.head.kind
        kind = "sequence_classification" if kind == "reward" else kind
        for name, head in self.architectures.items():
            if head.kind == kind:
                return name
        there = sorted({head.kind for head in self.architectures.values()})
        raise UserError(
            f"transformers has no {self.model_type!r} model with model.head.kind={kind!r}; its "
            f"heads are {', '.join(there)}. Choose one of these, or another model.family."
        )

    def names(self, ours: ModelConfig, bare: bool | None = None) -> Table:
        """The weight table of a model with this head.

        Names are without the prefix if `bare`; None: where there is no language or
        classification head, as transformers writes them.
        """
        kind = ours.head.kind
        bare = kind == "embedding" if bare is None else bare
        prefix = self.prefix if bare else ""
        return tuple(
            dataclasses.replace(entry, theirs=entry.theirs.removeprefix(prefix))
            for entry in self.weights if not entry.heads or kind in entry.heads
        )

    def _read_head(self, theirs: Json) -> HeadConfig:
        name = (theirs.get("architectures") or [next(iter(self.architectures))])[0]
        if name not in self.architectures:
            why = self.refused.get(name, f"{name} is not read")
            raise UserError(
                f"config.json: architectures=[{name!r}]: {why}. Classes of {self.model_type!r} "
                f"that are: {', '.join(self.architectures)}."
            )
        head = self.architectures[name]
        if not head.kind.endswith("classification"):
            return head
        known = theirs.get("id2label")
        labels = len(known) if known else theirs.get("num_labels", 2)
        kind = "reward" if labels == 1 and head.kind == "sequence_classification" else head.kind
        names = tuple(str(known[i]) for i in sorted(known, key=int)) if known else ()
        names = () if names == _unnamed(labels) else names
        return dataclasses.replace(head, kind=kind, labels=labels, label_names=names)


def _unnamed(labels: int) -> tuple[str, ...]:
    """What transformers calls classes that have no names."""
    return tuple(f"LABEL_{i}" for i in range(labels))


def _check_types(base: ModelConfig, changes: Mapping[str, Any]) -> None:
    """Refuses values of another type than the field has: "64" or 32.0 for a size."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    for where, value in changes.items():
        kind = type(operator.attrgetter(where)(base))
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind in (int, float)):
            raise UserError(
                f"config.json: {value!r} where model.{where} comes from; it wants "
                f"{words.get(kind, kind.__name__)}."
            )
    if changes.get("vocab_size", 1) < 1:
        raise UserError(f"config.json: vocab_size={changes['vocab_size']} must be at least 1.")


def find_family(theirs: Json) -> Family:
    """The family of a config.json.

    Raises:
      UserError: no model_type, or one that is none of ours.
    """
    kind = theirs.get("model_type")
    known = {
        name: found for found in map(family, families())
        for name in (found.model_type, *found.also)
    }
    if kind not in known:
        raise UserError(
            f"config.json: model_type={kind!r} is another kind of model than those that are read, "
            f"which are: {', '.join(sorted(known))}."
        )
    return known[kind]


def family(name: str) -> Family:
    """What models/families/NAME.py declares."""
    return importlib.import_module(f"jaxllm.models.families.{name}").FAMILY


def differences(ours: ModelConfig, again: ModelConfig) -> list[str]:
    """The fields that decide what the model computes and are not the same."""
    result, kind = [], ours.head.kind
    unread = TRAINING_ONLY + (TEXT_HEAD if kind in LANGUAGE_HEADS else LANGUAGE_HEAD)
    if kind == "embedding":  # transformers leaves it to the caller how to pool
        unread += ("head.pooling", *(() if ours.head.dense else ("head.dense",)))

    def compare(a: Any, b: Any, where: str) -> None:
        if where in unread:
            return
        if dataclasses.is_dataclass(a):
            for item in dataclasses.fields(a):
                name = f"{where}.{item.name}" if where else item.name
                compare(getattr(a, item.name), getattr(b, item.name), name)
        elif a != b:
            result.append(f"model.{where}={a!r} (it would be read as {b!r})")

    compare(ours, again, "")
    return result
