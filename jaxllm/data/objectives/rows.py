"""What objectives of rows share: items become examples once, examples a Batch when asked for."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.blocks import token_dtype
from jaxllm.data.objectives.base import Objective, table_of
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.formats import Item
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers.base import Tokenizer

Placed = tuple[Item, str]  # an item and where it is from


class RowObjective(Objective):
    """Makes a row of the batch of one or several examples."""

    FORMATS: ClassVar[tuple[str, ...]]  # of rows that it reads, in the order of recognition
    LABELS: ClassVar[str] = ""  # the column that holds numbers of labels
    STREAM: ClassVar[tuple[str, str]] = ("", "")  # how prepared data are read beside rows,
    # where the tokenizer has sentinels and where not

    def _set_up(self, load_tokenizer: Callable[[], Tokenizer], decoder_start_id: int) -> None:
        if not self.config.block_cross_document_attention:
            raise UserError(
                "data.block_cross_document_attention=False has no effect: data.objective="
                f"{self.config.objective!r} never lets a row see another. Remove it."
            )
        self.raw_length, self._tokenizer = self.sequence_length, load_tokenizer()
        tokens = self._tokens = self._tokenizer.special_tokens()
        self._dtype = token_dtype(tokens.vocab_size)
        self._special = table_of(tokens.special_ids, tokens.vocab_size)
        self._prepare(decoder_start_id)

    def _prepare(self, decoder_start_id: int) -> None:
        """Sets what `encode` and `example` need; see Objective.__init__ for the errors."""

    @abc.abstractmethod
    def encode(self, items: Sequence[Placed], labels: Labels) -> list[Example | BadRow]:
        """The example of each item, or what is wrong with it."""

    @abc.abstractmethod
    def size(self, example: Example) -> int:
        """The `sequence_length` that the example needs."""

    def cut(self, example: Example) -> Example | None:
        """The example as long as fits; None if nothing of that would be trained on."""
        return {name: self._shortened(ids, self.sequence_length) for name, ids in example.items()}

    @abc.abstractmethod
    def example(self, pack: Sequence[Example], rng: np.random.Generator) -> Batch:
        """The row of these examples."""

    @property
    def stream(self) -> str:
        """The objective of prepared data that are mixed with rows; "" where they cannot be."""
        return self.STREAM[0 if self._tokens.sentinel_ids else 1]

    def joined(self, batch: Batch) -> Batch:
        return batch

    def _wrapped(self, ids: Sequence[int]) -> np.ndarray:
        """The ids as the tokenizer's family wraps a text."""
        return np.array(self._tokenizer.with_special_tokens(ids)[0], self._dtype)

    def _shortened(self, ids: np.ndarray, length: int) -> np.ndarray:
        """At most `length` of the ids; a special token at their end stays there."""
        if len(ids) <= length:
            return ids
        if not self._special[ids[-1]]:
            return ids[:length]
        return np.concatenate([ids[: length - 1], ids[-1:]])

    def _one_text(self, ids: np.ndarray) -> tuple[np.ndarray, ...]:
        """Inputs, zeros for targets and weights, positions and segments of a row of one text."""
        inputs, targets, positions, segments = (
            np.zeros(self.sequence_length, np.int32) for _ in range(4)
        )
        n = len(ids)
        inputs[:n], positions[:n], segments[:n] = ids, np.arange(n), 1
        return inputs, targets, np.zeros(self.sequence_length, np.float32), positions, segments


def no_end(objective: str) -> UserError:
    """The error for a tokenizer without an end of text."""
    return UserError(
        f"data.objective={objective!r} needs an end-of-text token, to learn where an answer ends, "
        "and the tokenizer has none. Use one that has (tokenizer.path; of a Hugging Face folder, "
        "name eos_token in its tokenizer_config.json)."
    )
