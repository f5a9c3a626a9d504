"""A batch as coloured text, to see what a model will be trained on before it is.

Every document of a row has its own colour; struck tokens are read but not trained on. Rows of
masked language models show what was chosen and what stands there instead, rows of encoder-decoders
both sides, texts and words with labels those.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from jaxllm.core.display import Display
from jaxllm.data import preview_rows
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.objectives import objective_class
from jaxllm.data.rows.load import RowSource
from jaxllm.data.shown import (
    COLOURS,
    UNTRAINED,
    made_visible,
    padded,
    special_names,
    spelled,
)
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

PREFIX_END = "┃"
MASKED, RANDOM, KEPT = "bold", "bold underline", "bold italic"
LEGENDS = {
    "decoder": "Each colour is a document, ¶ its end-of-text token, ⏎ a line end. Struck tokens "
    f"are read but are no targets. {PREFIX_END} ends a prefix that is seen in both directions.",
    "encoder": "Each colour is a document, ¶ its end-of-text token, ⏎ a line end. Targets: ‹text› "
    "is masked, ‹text→other› replaced at random, ‹text=› kept.",
    "encoder_decoder": "¶ is the end-of-text token, ⏎ a line end. A colour is a sentinel and the "
    "span that it stands for.",
}
COLUMNS = ("row", "source", "documents", "padding", "trained on")
PAIR_COLUMNS = ("row", "source", "encoder tokens", "decoder tokens", "padding", "trained on")


class RowStats(NamedTuple):
    """Numbers of one row."""

    segments: int
    padding: float  # share of the places
    trained: float  # share of the places that are targets in the loss


def preview(
    config: DataConfig, seed: int, step: int, rows: int, display: Display,
    decoder_start_id: int = -1, tokenizer_path: str = "",
) -> list[RowStats]:
    """Prints the first `rows` rows of the batch that step `step` trains on (the first is 1).

    `decoder_start_id` and `tokenizer_path` are as of TrainingData.

    Raises:
      UserError: data that cannot be read.
    """
    data = TrainingData(config, seed, decoder_start_id, tokenizer_path)
    for remark in data.remarks:
        display.message(remark)
    tokenizer = data.load_tokenizer()
    first, rows = (step - 1) * config.global_batch_size, min(rows, config.global_batch_size)
    # a pipe has no width, and its reader wants the lines of the text
    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table, stats = [], []
    for number in range(rows):
        row, source = data.example(first + number), data.source_of(first + number)
        stats.append(row_stats(row))
        console.rule(Text(f"step {step}, row {number}, {source}"), align="left", style="dim")
        render, legend = _renderer(data, source)
        console.print(render(row, tokenizer))
        segments, padding, trained = stats[-1]
        counts = (segments,)
        if row.encoder_inputs is not None:
            counts = tuple(map(np.count_nonzero, (row.encoder_segment_ids, row.segment_ids)))
        table.append((number, source, *counts, f"{padding:.1%}", f"{trained:.1%}"))
    console.print(Text(_legend(legend, console.is_terminal), "dim"))
    length, encoder_length = data.lengths
    lengths = f"{encoder_length} and {length}" if encoder_length else f"{length}"
    display.table(
        f"{rows} of {config.global_batch_size} rows of {lengths} tokens",
        PAIR_COLUMNS if encoder_length else COLUMNS, table,
    )
    return stats


def _legend(words: str, coloured: bool) -> str:
    """What the marks of a text mean; colours and strokes only where they are seen."""
    if "Struck" in words:
        words += " ␣ is a space that is not learned."
    if coloured:
        return words
    words = re.sub(r"Each colour is an? \w+, ¶ its", "¶ is the", words)
    return re.sub(r" (Struck|A colour)\b[^.]*\.", "", words)


def _renderer(
    data: TrainingData, source: str
) -> tuple[Callable[[Batch, Tokenizer], Text], str]:
    """What shows a row of a source, and what its colours mean."""
    name = data.config.objective
    if isinstance(data.sources[source], RowSource) and (
        found := preview_rows.renderer(name, data.labels)
    ):
        return found
    architecture = objective_class(name).ARCHITECTURES[0]
    return RENDERERS[architecture], LEGENDS[architecture]


def row_stats(row: Batch) -> RowStats:
    """The numbers of an example ([T] arrays)."""
    places = [row.segment_ids]
    if row.encoder_inputs is not None:
        places.append(row.encoder_segment_ids)
    return RowStats(
        len(np.unique(row.segment_ids[row.segment_ids > 0])),
        float(np.mean(np.concatenate(places) == 0)), float(np.mean(row.weights > 0)),
    )


def render_row(row: Batch, tokenizer: Tokenizer) -> Text:
    """The text of an example: its first input and then every target, as the loss sees them."""
    places = int(np.count_nonzero(row.segment_ids))
    tokens = [int(row.inputs[0]), *row.targets[:places].tolist()] if places else []
    trained = [False, *(row.weights[:places] > 0).tolist()]
    segments = [*row.segment_ids[:places].tolist()]
    # the last target has no place of its own; it begins a new document where it is not trained on
    segments.append(segments[-1] + (not trained[-1]) if places else 0)
    prefix = [] if row.prefix is None else (row.prefix[:places] != 0).tolist()
    text, decoder, last, inside = Text(), StreamDecoder(tokenizer), None, False
    for token, is_trained, segment, in_prefix in itertools.zip_longest(
        tokens, trained, segments[: len(tokens)], prefix, fillvalue=False
    ):
        colour = COLOURS[(segment - 1) % len(COLOURS)]
        if inside and not in_prefix:
            text.append(made_visible(decoder.flush(), True), COLOURS[(last - 1) % len(COLOURS)])
            text.append(PREFIX_END, "bold")
        inside = in_prefix
        if last not in (None, segment):
            text.append(made_visible(decoder.flush(), True), COLOURS[(last - 1) % len(COLOURS)])
            text.append("\n")
        last = segment
        shown = "¶" if token == tokenizer.eos_id else decoder.push([token])
        style = colour if is_trained else f"{colour} {UNTRAINED}"
        text.append(made_visible(shown, is_trained), style)
    text.append(made_visible(decoder.flush(), True), "default")
    return padded(text, len(row.segment_ids) - places)


def render_masked(row: Batch, tokenizer: Tokenizer) -> Text:
    """The text of a row whose targets stand at their own places, and what is seen instead."""
    places = int(np.count_nonzero(row.segment_ids))
    inputs, targets = row.inputs[:places], row.targets[:places]
    chosen, names = row.weights[:places] > 0, special_names(tokenizer)
    kinds = np.select(
        [~chosen, inputs == tokenizer.mask_id, inputs != targets], ["", MASKED, RANDOM], KEPT
    )
    text, decoder, last = Text(), StreamDecoder(tokenizer), None
    runs = itertools.groupby(range(places), lambda i: (int(row.segment_ids[i]), str(kinds[i])))
    for (segment, kind), run in runs:
        if last not in (None, segment):
            text.append("\n")
        last, run = segment, list(run)
        shown = made_visible(spelled(targets[run], decoder, names), True)
        if kind:
            seen = tokenizer.decode(inputs[run]) if kind == RANDOM else ""
            middle = {MASKED: "", RANDOM: f"→{made_visible(seen, True)}", KEPT: "="}[kind]
            shown = f"‹{shown}{middle}›"
        text.append(shown, f"{COLOURS[(segment - 1) % len(COLOURS)]} {kind}".strip())
    text.append(made_visible(decoder.flush(), True))
    return padded(text, len(row.segment_ids) - places)


def render_pair(row: Batch, tokenizer: Tokenizer) -> Text:
    """What the encoder reads and what the decoder learns to say."""
    text = Text()
    for title, ids, segments, weights in (
        ("encoder reads", row.encoder_inputs, row.encoder_segment_ids, None),
        ("decoder learns", row.targets, row.segment_ids, row.weights),
    ):
        places = int(np.count_nonzero(segments))
        trained = np.ones(places, bool) if weights is None else weights[:places] > 0
        text.append(f"{title}\n", "dim italic")
        text.append(_side(ids[:places], trained, tokenizer, spans=weights is not None))
        text = padded(text, len(segments) - places)
        text.append("\n" if weights is None else "")
    return text


def _side(ids: np.ndarray, trained: np.ndarray, tokenizer: Tokenizer, spans: bool) -> Text:
    """One side's text; with `spans` a sentinel's colour is that of the tokens after it too."""
    text, decoder, names = Text(), StreamDecoder(tokenizer), special_names(tokenizer)
    colours = {token: COLOURS[i % len(COLOURS)] for i, token in enumerate(tokenizer.sentinel_ids)}
    current = ""
    for token, is_trained in zip(ids.tolist(), trained.tolist(), strict=True):
        if text.plain.endswith("¶"):
            text.append("\n")
        style = "bold" if token in names else current
        if token in colours:
            style, current = f"bold {colours[token]}", colours[token] if spans else ""
        shown = made_visible(spelled([token], decoder, names), is_trained)
        text.append(shown, style if is_trained else f"{style} {UNTRAINED}".strip())
    text.append(made_visible(decoder.flush(), True), current)
    return text


RENDERERS = {"decoder": render_row, "encoder": render_masked, "encoder_decoder": render_pair}
