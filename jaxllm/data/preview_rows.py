"""Rows of fine-tuning as coloured text: what is learned of a conversation, labels, tags."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from rich.text import Text

from jaxllm.data.batch import Batch
from jaxllm.data.shown import COLOURS, UNTRAINED, made_visible, padded, special_names, spelled
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer

Render = Callable[[Batch, Tokenizer], Text]
LEGENDS = {
    "sft": "Each colour is an example, ¶ its end-of-text token, ⏎ a line end. Struck tokens are "
    "read but not learned.",
    "classification": "¶ is the end-of-text token, ⏎ a line end. The label is what is learned.",
    "token_classification": "‹tag› is what is learned of the word before it, at its first token; "
    "words without one are tagged 'O'.",
}
OUTSIDE = "O"


def renderer(objective: str, labels: Sequence[str]) -> tuple[Render, str] | None:
    """What shows a row of an objective, and what its colours mean; None for pairs."""
    renders: dict[str, Render] = {
        "sft": render_examples,
        "classification": functools.partial(render_label, labels=labels),
        "token_classification": functools.partial(render_tags, labels=labels),
    }
    return (renders[objective], LEGENDS[objective]) if objective in renders else None


def render_examples(row: Batch, tokenizer: Tokenizer) -> Text:
    """Every example of a row: its first input, then its targets, as the loss sees them."""
    text, names = Text(), special_names(tokenizer)
    places = int(np.count_nonzero(row.segment_ids))
    for segment in range(1, int(row.segment_ids.max(initial=0)) + 1):
        here = np.flatnonzero(row.segment_ids == segment)
        tokens = [row.inputs[here[0]], *row.targets[here]]
        trained = [False, *(row.weights[here] > 0)]
        if segment > 1:
            text.append("\n")
        colour, decoder = COLOURS[(segment - 1) % len(COLOURS)], StreamDecoder(tokenizer)
        for token, is_trained in zip(tokens, trained, strict=True):
            piece = made_visible(spelled([token], decoder, names), is_trained)
            text.append(piece, colour if is_trained else f"{colour} {UNTRAINED}")
        text.append(made_visible(decoder.flush(), True), colour)
    return padded(text, len(row.segment_ids) - places)


def render_label(row: Batch, tokenizer: Tokenizer, labels: Sequence[str]) -> Text:
    """The text as the model reads it, and its label."""
    places = int(np.count_nonzero(row.segment_ids))
    decoder = StreamDecoder(tokenizer)
    text = Text(made_visible(
        spelled(row.inputs[:places], decoder, special_names(tokenizer)) + decoder.flush(), True
    ))
    text = padded(text, len(row.segment_ids) - places).append("\n→ ", "bold")
    return text.append(_label(labels, row.targets[0]), f"bold {COLOURS[0]}")


def render_tags(row: Batch, tokenizer: Tokenizer, labels: Sequence[str]) -> Text:
    """The words, each with its tag behind it, if that is no 'O'."""
    places = int(np.count_nonzero(row.segment_ids))
    text, decoder, names = Text(), StreamDecoder(tokenizer), special_names(tokenizer)
    kinds = sorted({label[2:] for label in labels if label[1:2] == "-"} or set(labels))
    tag, colour = "", ""
    for token, target, weight in zip(
        row.inputs[:places], row.targets[:places], row.weights[:places], strict=True
    ):
        piece = made_visible(spelled([token], decoder, names), True)
        if tag and (weight > 0 or token in names or piece[:1].isspace()):
            text.append(tag, f"{colour} italic")
            tag, colour = "", ""
        if weight > 0 and (label := _label(labels, target)) != OUTSIDE:
            tag = f"‹{label}›"
            colour = COLOURS[kinds.index(label[2:] if label[1:2] == "-" else label) % len(COLOURS)]
        text.append(piece, colour)
    text.append(made_visible(decoder.flush(), True) + tag, colour)
    return padded(text, len(row.segment_ids) - places)


def _label(labels: Sequence[str], number: int) -> str:
    return made_visible(labels[int(number)], True)
