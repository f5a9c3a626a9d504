"""Supervised fine-tuning of a decoder: rows packed together, the loss on what is to be learned.

Ids and masks are those of TRL's SFTTrainer: text and prompt-completion rows get what the tokenizer
puts before a text and an end of text behind it; conversations are what the chat template writes.
Prepared data beside the rows are read as the causal objective reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.objectives.rows import Placed, RowObjective, no_end
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.render import Marked, Renderer, trained_tokens
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers.base import FIRST, Encoded


class SFT(RowObjective):
    """Examples of `ids` and `trained`; a row of T places holds T + 1 tokens of one example."""

    ARCHITECTURES = ("decoder",)
    FORMATS = ("messages", "sharegpt", "prompt_completion", "alpaca", "text")
    READS = (
        "chat_template", "completion_only_loss", "assistant_only_loss", "packing", "truncate",
    )
    STREAM = ("causal", "causal")

    def _prepare(self, decoder_start_id):
        if self._tokens.eos_id is None:
            raise no_end(self.config.objective)
        self._renderer = Renderer(self._tokenizer, self.config)
        wrapping = [part for part, _ in self._tokenizer.wrapping[0]]
        self._lead = wrapping[: wrapping.index(FIRST)]

    def encode(self, items: Sequence[Placed], labels: Labels) -> list[Example | BadRow]:
        marked: list[Marked | BadRow] = []
        for item, place in items:
            try:
                marked.append(self._renderer.mark(item, place))
            except BadRow as error:
                marked.append(error)
        found: list[Example | BadRow] = list(marked)
        for is_chat, encode in (
            (True, self._tokenizer.encode_chat), (False, self._tokenizer.encode_places)
        ):
            numbers = [n for n, one in enumerate(marked)
                       if isinstance(one, Marked) and one.is_chat == is_chat]
            encoded = encode([marked[n].text for n in numbers])
            for n, one in zip(numbers, encoded, strict=True):
                found[n] = self._masked(marked[n], one, items[n][1])
        return found

    def _masked(self, marked: Marked, encoded: Encoded, place: str) -> Example | BadRow:
        ids, places = encoded
        trained = trained_tokens(marked.spans, places)
        if not marked.is_chat:
            whole = marked.spans == [(0, len(marked.text))]
            lead = np.full(len(self._lead), whole)
            last = self._tokens.eos_id
            end = [] if ids and ids[-1] == last else [last]
            ids = [*self._lead, *ids, *end]
            trained = np.concatenate([lead, trained, np.ones(len(end), bool)])
        if not trained[1:].any():
            return BadRow(
                place, f"it trains on nothing: none of its {len(ids)} tokens is part of what is "
                "to be learned" + (
                    " (data.assistant_only_loss=True wants messages of the assistant)"
                    if marked.is_chat and self.config.assistant_only_loss else ""
                ),
            )
        return {"ids": np.array(ids, self._dtype), "trained": trained}

    def size(self, example: Example) -> int:
        return len(example["ids"]) - 1

    def cut(self, example: Example) -> Example | None:
        most = self.sequence_length + 1
        short = {name: values[:most] for name, values in example.items()}
        return short if short["trained"][1:].any() else None

    def example(self, pack: Sequence[Example], rng: np.random.Generator) -> Batch:
        """Inputs and the tokens that follow them; segments and positions restart."""
        T = self.sequence_length
        inputs, targets, positions, segments = (np.zeros(T, np.int32) for _ in range(4))
        weights, start = np.zeros(T, np.float32), 0
        for number, one in enumerate(pack, 1):
            ids, end = one["ids"], start + len(one["ids"]) - 1
            inputs[start:end], targets[start:end] = ids[:-1], ids[1:]
            weights[start:end] = one["trained"][1:]
            positions[start:end], segments[start:end] = np.arange(end - start), number
            start = end
        return Batch(inputs, targets, weights, positions, segments)


OBJECTIVE = SFT
