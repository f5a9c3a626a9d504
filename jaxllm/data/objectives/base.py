"""What every objective is: how much text an example takes, and the Batch that it makes of it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.config import DataConfig
from jaxllm.data.tokenizers.base import SpecialTokens, Tokenizer


class Objective(abc.ABC):
    """Makes an example of a window of the token stream.

    All randomness comes from the generator that is handed in: an example is a function of its
    window and its index. Windows shorter than `raw_length` are padded with segment 0, weight 0.
    """

    ARCHITECTURES: ClassVar[tuple[str, ...]]  # of the models that it trains
    OPTIONS: ClassVar[str] = ""  # its section of DataConfig
    READS: ClassVar[tuple[str, ...]] = ()  # fields of DataConfig that others do not read
    COVERS_TEXT: ClassVar[bool] = False  # the loss is the text's, token by token

    raw_length: int  # tokens of the stream that an example is made from
    overlap: int = 0  # how many of them the next window has too
    targets_per_row: int = 0  # the most places of a row that have a weight; 0: any
    sequence_length: int  # of the example; of an encoder-decoder the encoder's

    def __init__(
        self, config: DataConfig, load_tokenizer: Callable[[], Tokenizer], decoder_start_id: int
    ):
        """Checks the objective's options against their ranges and the tokenizer.

        Raises:
          UserError: an option out of range, or a token that the tokenizer lacks.
        """
        self.config, self.sequence_length = config, config.sequence_length
        self._set_up(load_tokenizer, decoder_start_id)
        if self.raw_length <= self.overlap:
            least = self.sequence_length + self.overlap + 1 - self.raw_length
            raise UserError(
                f"data.sequence_length={self.sequence_length} is too short for "
                f"data.objective={config.objective!r}: set at least {least}."
            )

    @abc.abstractmethod
    def _set_up(self, load_tokenizer: Callable[[], Tokenizer], decoder_start_id: int) -> None:
        """Sets the lengths and what `example` needs; see __init__ for the errors."""

    @abc.abstractmethod
    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        """The example of a window, [sequence_length] arrays (or [target_length], see Batch)."""

    def longest(self, num_tokens: int) -> int:
        """The longest `sequence_length` whose window fits into a stream."""
        return num_tokens - (self.raw_length - self.sequence_length)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of a row of the decoder (or only tower) and of the encoder, 0 without one."""
        return self.sequence_length, 0

    def joined(self, batch: Batch) -> Batch:
        """The batch with every row one document: attention and positions run through it."""
        return joined_positions(batch)._replace(segment_ids=None)  # padding is at the end, unseen


class PairObjective(Objective):
    """An objective of encoder-decoders: a source for the encoder, a target for the decoder."""

    ARCHITECTURES = ("encoder_decoder",)

    target_length: int  # of the decoder

    def _set_target(self, needed: int, start: int, tokens: SpecialTokens) -> None:
        """Sets the length of the decoder, `needed` at least, and its first input."""
        asked = self.config.target_length
        if asked and asked < needed:
            raise UserError(
                f"data.target_length={asked} is too short: data.objective="
                f"{self.config.objective!r} with data.sequence_length={self.sequence_length} makes "
                f"targets of {needed} tokens. Set {needed}, or 0 to have it set."
            )
        self.target_length = asked or needed
        if start < 0 and tokens.pad_id is None:
            raise UserError(
                f"data.objective={self.config.objective!r}: the tokenizer has no padding token for "
                "the decoder to start with. Set model.decoder_start_id, such as to "
                f"{tokens.eos_id if tokens.bos_id is None else tokens.bos_id}."
            )
        self._start = tokens.pad_id if start < 0 else start

    @property
    def lengths(self) -> tuple[int, int]:
        return self.target_length, self.sequence_length

    def joined(self, batch: Batch) -> Batch:
        return batch  # a row is one text as it is; segments tell the padding

    def _pair(self, source: np.ndarray, target: np.ndarray) -> Batch:
        """Source and target padded; the decoder reads its start and the target but the last."""
        S, T = self.sequence_length, self.target_length
        m, n = len(source), len(target)
        encoder, encoder_positions, encoder_segments = (np.zeros(S, np.int32) for _ in range(3))
        inputs, targets, positions, segments = (np.zeros(T, np.int32) for _ in range(4))
        weights = np.zeros(T, np.float32)
        encoder[:m], encoder_positions[:m], encoder_segments[:m] = source, np.arange(m), 1
        inputs[0], inputs[1:n], targets[:n] = self._start, target[:-1], target
        weights[:n], positions[:n], segments[:n] = 1, np.arange(n), 1
        return Batch(
            inputs, targets, weights, positions, segments, None,
            encoder, encoder_positions, encoder_segments,
        )


def joined_positions(batch: Batch) -> Batch:
    """The batch with positions that run through its rows."""
    positions = np.empty_like(batch.positions)
    positions[...] = np.arange(positions.shape[-1], dtype=np.int32)
    return batch._replace(positions=positions)


def number_documents(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments 1, 2, … and positions in them, of places where documents begin (bool)."""
    places = np.arange(len(begins), dtype=np.int32)
    starts = np.maximum.accumulate(np.where(begins, places, 0))
    return np.cumsum(begins, dtype=np.int32), places - starts


def framed(tokens: np.ndarray, first: int | None, last: int | None) -> np.ndarray:
    """The tokens between `first` and `last`, where there are such; `last` is not doubled."""
    parts = [] if first is None else [[first]]
    parts.append(tokens)
    if last is not None and not (len(tokens) and tokens[-1] == last):
        parts.append([last])
    return np.concatenate(parts).astype(np.int32) if len(parts) > 1 else tokens


def table_of(ids: frozenset[int], vocab_size: int) -> np.ndarray:
    """Bool [vocab_size], True for the given ids."""
    table = np.zeros(vocab_size, bool)
    table[list(ids)] = True
    return table


def check_option(field: str, value: float, low: float, high: float, ends: str = "[]") -> None:
    """Refuses a value outside [low, high]; a round bracket in `ends` leaves that end out."""
    above = value >= low if ends[0] == "[" else value > low
    below = value <= high if ends[1] == "]" else value < high
    if not (above and below):
        span = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
        raise UserError(f"data.{field}={value} must lie in {span}.")


def missing(objective: str, token: str, fix: str) -> UserError:
    """The error for a token that the objective needs and the tokenizer lacks."""
    return UserError(
        f"data.objective={objective!r} needs {token}, which the tokenizer of the data lacks. "
        f"Prepare the data again with {fix}, or with a tokenizer that has it "
        "(--config.tokenizer.path)."
    )
