"""What evaluators share: the rows, the model's class scores, records of metrics."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.core.rundir import Record
from jaxllm.data.batch import Batch
from jaxllm.data.loader import Validation
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals import metrics
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model
from jaxllm.models.transformer import inputs_of
from jaxllm.nn.module import bind
from jaxllm.train.feed import local_rows, place


class Measured(abc.ABC):
    """Metrics of what a model makes of validation rows."""

    HEAD: ClassVar[str]  # the kind of head that it needs
    METRICS: ClassVar[tuple[str, ...]]  # files of evals/metrics

    def __init__(
        self, name: str, splits: Mapping[str, Validation], batch_size: int, batches: int = 0
    ):
        """Rows of `batch_size` go through the model at once, as in the run's own validation."""
        self.name, self._splits = name, splits
        self._size, self._batches = batch_size, batches

    def check(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Raises UserError for a model, or a library that is missing, before training."""
        if config.head.kind != self.HEAD:
            raise UserError(
                f"eval.evaluators: {self.name!r} measures a model with model.head.kind="
                f"{self.HEAD!r}, and this one has {config.head.kind!r}: leave it out."
            )

    def __call__(self, model: Model, tokenizer: Tokenizer) -> Iterable[Record]:
        """A record for every split that has rows: its name with this evaluator's behind it."""
        for split, data in self._splits.items():
            pairs = list(self.answers(model, tokenizer, data))
            if not pairs:
                continue
            record: Record = {"split": f"{split}/{self.name}", "n": len(pairs)}
            predictions, references = zip(*pairs, strict=True)
            for metric in self.METRICS:
                for key, score in metrics.evaluate(metric, predictions, references).items():
                    record[key] = score.value
                    record[f"{key}_low"], record[f"{key}_high"] = score.low, score.high
            yield record

    @abc.abstractmethod
    def answers(
        self, model: Model, tokenizer: Tokenizer, data: Validation
    ) -> Iterator[tuple[Any, Any]]:
        """(prediction, reference) of every example."""

    def batches(self, data: Validation) -> Iterator[Batch]:
        """The rows, whole batches of this host."""
        return data.batches(self._size, self._batches)

    def scored(self, model: Model, data: Validation) -> Iterator[tuple[Batch, np.ndarray]]:
        """Every batch with the model's likeliest classes of its rows, [B] or [B, T]."""
        sharding = model.compute.sharding
        rows = local_rows(sharding, self._size)
        for batch in self.batches(data):
            own = Batch(*(None if x is None else x[rows] for x in batch))
            placed = place(own, sharding, rows, self._size)
            yield batch, np.asarray(_likeliest(model.structure, sharding, model.params, placed))


@partial(jax.jit, static_argnums=(0, 1))
def _likeliest(structure, sharding, params, batch: Batch) -> jax.Array:
    scores = bind(structure, params).text_outputs(inputs_of(batch))
    return jax.lax.with_sharding_constraint(jnp.argmax(scores, axis=-1), sharding.replicated())


def label_names(config: ModelConfig) -> Sequence[Any]:
    """The classes' names by their ids, or their ids where they have none."""
    return config.head.label_names or range(config.head.labels)
