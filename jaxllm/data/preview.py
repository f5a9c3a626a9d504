"""A batch as coloured text, to see what a model will be trained on before it is.

Every document of a row has its own colour; struck tokens are read but not trained on. Rows of
masked language models show what was chosen and what stands there instead, rows of encoder-decoders
both sides.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.text import Text

from jaxllm.core.display import Display, visible
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.objectives import objective_class
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "bright_red")
UNTRAINED = "dim strike"
PADDING = "black on bright_black"
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
SEEN = str.maketrans({" ": "␣", "\t": "⇥"})  # a space that is struck cannot be seen otherwise


class RowStats(NamedTuple):
    """Numbers of one row."""

    segments: int
    padding: float  # share of the places
    trained: float  # share of the places that are targets in the loss


def preview(
    config: DataConfig, seed: int, step: int, rows: int, display: Display,
    decoder_start_id: int = -1,
) -> list[RowStats]:
    """Prints the first `rows` rows of the batch that step `step` trains on (the first is 1).

    `decoder_start_id` is the model's, see `make_objective`.

    Raises:
      UserError: data that cannot be read.
    """
    data = TrainingData(config, seed, decoder_start_id)
    architecture = objective_class(config.objective).ARCHITECTURES[0]
    render = RENDERERS[architecture]
    tokenizer = data.load_tokenizer()
    first, rows = (step - 1) * config.global_batch_size, min(rows, config.global_batch_size)
    # a pipe has no width, and its reader wants the lines of the text
    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)
    table, stats = [], []
    for number in range(rows):
        row, source = data.example(first + number), data.source_of(first + number)
        stats.append(row_stats(row))
        console.rule(Text(f"step {step}, row {number}, {source}"), align="left", style="dim")
        console.print(render(row, tokenizer))
        segments, padding, trained = stats[-1]
        counts = (segments,)
        if row.encoder_inputs is not None:
            counts = tuple(map(np.count_nonzero, (row.encoder_segment_ids, row.segment_ids)))
        table.append((number, source, *counts, f"{padding:.1%}", f"{trained:.1%}"))
    console.print(Text(LEGENDS[architecture], "dim"))
    length, encoder_length = data.lengths
    lengths = f"{encoder_length} and {length}" if encoder_length else f"{length}"
    display.table(
        f"{rows} of {config.global_batch_size} rows of {lengths} tokens",
        PAIR_COLUMNS if encoder_length else COLUMNS, table,
    )
    return stats


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
            text.append(_shown(decoder.flush(), True), COLOURS[(last - 1) % len(COLOURS)])
            text.append(PREFIX_END, "bold")
        inside = in_prefix
        if last not in (None, segment):
            text.append(_shown(decoder.flush(), True), COLOURS[(last - 1) % len(COLOURS)])
            text.append("\n")
        last = segment
        shown = "¶" if token == tokenizer.eos_id else decoder.push([token])
        text.append(_shown(shown, is_trained), colour if is_trained else f"{colour} {UNTRAINED}")
    text.append(_shown(decoder.flush(), True), "default")
    return _pad(text, len(row.segment_ids) - places)


def render_masked(row: Batch, tokenizer: Tokenizer) -> Text:
    """The text of a row whose targets stand at their own places, and what is seen instead."""
    places = int(np.count_nonzero(row.segment_ids))
    inputs, targets = row.inputs[:places], row.targets[:places]
    chosen, names = row.weights[:places] > 0, _names(tokenizer)
    kinds = np.select(
        [~chosen, inputs == tokenizer.mask_id, inputs != targets], ["", MASKED, RANDOM], KEPT
    )
    text, decoder, last = Text(), StreamDecoder(tokenizer), None
    runs = itertools.groupby(range(places), lambda i: (int(row.segment_ids[i]), str(kinds[i])))
    for (segment, kind), run in runs:
        if last not in (None, segment):
            text.append("\n")
        last, run = segment, list(run)
        shown = _shown(_spelled(targets[run], decoder, names), True)
        if kind:
            seen = tokenizer.decode(inputs[run]) if kind == RANDOM else ""
            middle = {MASKED: "", RANDOM: f"→{_shown(seen, True)}", KEPT: "="}[kind]
            shown = f"‹{shown}{middle}›"
        text.append(shown, f"{COLOURS[(segment - 1) % len(COLOURS)]} {kind}".strip())
    text.append(_shown(decoder.flush(), True))
    return _pad(text, len(row.segment_ids) - places)


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
        text = _pad(text, len(segments) - places)
        text.append("\n" if weights is None else "")
    return text


def _side(ids: np.ndarray, trained: np.ndarray, tokenizer: Tokenizer, spans: bool) -> Text:
    """One side's text; with `spans` a sentinel's colour is that of the tokens after it too."""
    text, decoder, names = Text(), StreamDecoder(tokenizer), _names(tokenizer)
    colours = {token: COLOURS[i % len(COLOURS)] for i, token in enumerate(tokenizer.sentinel_ids)}
    current = ""
    for token, is_trained in zip(ids.tolist(), trained.tolist(), strict=True):
        if text.plain.endswith("¶"):
            text.append("\n")
        style = "bold" if token in names else current
        if token in colours:
            style, current = f"bold {colours[token]}", colours[token] if spans else ""
        shown = _shown(_spelled([token], decoder, names), is_trained)
        text.append(shown, style if is_trained else f"{style} {UNTRAINED}".strip())
    text.append(_shown(decoder.flush(), True), current)
    return text


RENDERERS = {"decoder": render_row, "encoder": render_masked, "encoder_decoder": render_pair}


def _names(tokenizer: Tokenizer) -> dict[int, str]:
    """How special tokens are shown."""
    names = {token: f"<extra_id_{i}>" for i, token in enumerate(tokenizer.sentinel_ids)}
    for role in ("unk", "pad", "bos", "sep", "cls", "mask"):
        names[getattr(tokenizer, f"{role}_id")] = f"<{role}>"
    return {**names, tokenizer.eos_id: "¶"}


def _spelled(ids: Iterable[int], decoder: StreamDecoder, names: dict[int, str]) -> str:
    """The text of tokens that follow those the decoder has seen, special ones by name."""
    return "".join(
        names[token] if token in names else decoder.push([token]) for token in map(int, ids)
    )


def _pad(text: Text, padding: int) -> Text:
    return text.append(f" {padding} of padding ", PADDING) if padding else text


def _shown(text: str, trained: bool) -> str:
    """Control characters made visible, so that nothing in a text can move the cursor."""
    text = text if trained else text.translate(SEEN)
    return visible(text).replace("\n", "⏎\n")
