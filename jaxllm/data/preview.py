"""A batch as coloured text, to see what a model will be trained on before it is.

Every document of a row has its own colour; struck tokens are read but not trained on.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from jaxllm.core.display import Display
from jaxllm.data import tokenizers
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "bright_red")
UNTRAINED = "dim strike"
PADDING = "black on bright_black"
LEGEND = (
    "Each colour is a document, ¶ its end-of-text token, ⏎ a line end. Struck tokens are read but "
    "are no targets."
)
COLUMNS = ("row", "source", "documents", "padding", "trained on")
SEEN = str.maketrans({" ": "␣", "\t": "⇥"})  # a space that is struck cannot be seen otherwise


class RowStats(NamedTuple):
    """Numbers of one row."""

    segments: int
    padding: float  # share of the places
    trained: float  # share of the places that are targets in the loss


def preview(
    config: DataConfig, seed: int, step: int, rows: int, display: Display
) -> list[RowStats]:
    """Prints the first `rows` rows of the batch that step `step` trains on (the first is 1).

    Raises:
      UserError: data that cannot be read.
    """
    data = TrainingData(config, seed)
    tokenizer = tokenizers.load(data.tokenizer_path)
    first, rows = (step - 1) * config.global_batch_size, min(rows, config.global_batch_size)
    # a pipe has no width, and its reader wants the lines of the text
    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table, stats = [], []
    for number in range(rows):
        row, source = data.example(first + number), data.source_of(first + number)
        stats.append(row_stats(row))
        console.rule(Text(f"step {step}, row {number}, {source}"), align="left", style="dim")
        console.print(render_row(row, tokenizer))
        segments, padding, trained = stats[-1]
        table.append((number, source, segments, f"{padding:.1%}", f"{trained:.1%}"))
    console.print(Text(LEGEND, "dim"))
    display.table(
        f"{rows} of {config.global_batch_size} rows of {config.sequence_length} tokens", COLUMNS,
        table,
    )
    return stats


def row_stats(row: Batch) -> RowStats:
    """The numbers of an example ([T] arrays)."""
    return RowStats(
        len(np.unique(row.segment_ids[row.segment_ids > 0])),
        float(np.mean(row.segment_ids == 0)), float(np.mean(row.weights > 0)),
    )


def render_row(row: Batch, tokenizer: Tokenizer) -> Text:
    """The text of an example: its first input and then every target, as the loss sees them."""
    places = int(np.count_nonzero(row.segment_ids))
    tokens = [int(row.inputs[0]), *row.targets[:places].tolist()] if places else []
    trained = [False, *(row.weights[:places] > 0).tolist()]
    segments = [*row.segment_ids[:places].tolist()]
    # the last target has no place of its own; it begins a new document where it is not trained on
    segments.append(segments[-1] + (not trained[-1]) if places else 0)
    text, decoder, last = Text(), StreamDecoder(tokenizer), None
    for token, is_trained, segment in zip(tokens, trained, segments, strict=False):
        colour = COLOURS[(segment - 1) % len(COLOURS)]
        if last not in (None, segment):
            text.append(_shown(decoder.flush(), True), COLOURS[(last - 1) % len(COLOURS)])
            text.append("\n")
        last = segment
        shown = "¶" if token == tokenizer.eos_id else decoder.push([token])
        text.append(_shown(shown, is_trained), colour if is_trained else f"{colour} {UNTRAINED}")
    text.append(_shown(decoder.flush(), True), "default")
    if padding := len(row.segment_ids) - places:
        text.append(f" {padding} of padding ", PADDING)
    return text


def _shown(text: str, trained: bool) -> str:
    """Control characters made visible, so that nothing in a text can move the cursor."""
    text = text if trained else text.translate(SEEN)
    visible = "".join(
        c if c in "\n\t" or c.isprintable() else chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"
        for c in text
    )
    return visible.replace("\n", "⏎\n")
