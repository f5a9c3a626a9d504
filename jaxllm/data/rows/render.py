"""The text of an item, and which of its characters are trained on.

Spans are of characters, so they do not depend on where tokens begin: a token is trained on if the
last character that it stands for is. A token that reaches from the prompt into the completion is
then trained on, as in TRL, and no token of the prompt alone ever is.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig
from jaxllm.data.rows.formats import Chat, Item, Pair
from jaxllm.data.rows.messages import Message, contents
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers import Tokenizer, chat

SHOWN = 60  # characters of what an error quotes
DAY = datetime.date(2024, 7, 26)  # "today" of every row: what Llama's templates say without a clock


class Marked(NamedTuple):
    """A text and what of it is trained on."""

    text: str
    spans: chat.Spans
    is_chat: bool  # a template wrote it, with the special tokens that it wants


class Renderer:
    """Writes items as text; conversations by the tokenizer's chat template."""

    def __init__(self, tokenizer: Tokenizer, config: DataConfig):
        self._tokenizer, self._config = tokenizer, config
        # Llama 3's templates write the date: the data must be the same when a run is resumed
        self._names = {**tokenizer.special_names(), "strftime_now": DAY.strftime}

    def mark(self, item: Item, place: str) -> Marked:
        """The text of an item that has one.

        Raises:
          BadRow: a conversation that the template does not write as it is.
          UserError: there is no template.
        """
        if isinstance(item, Chat):
            return self._chat(item, place)
        if isinstance(item, Pair):
            text = item.prompt + item.completion
            start = len(item.prompt) if self._config.completion_only_loss else 0
            return Marked(text, [(start, len(text))], False)
        return Marked(item.text, [(0, len(item.text))], False)

    def _chat(self, item: Chat, place: str) -> Marked:
        messages = (*item.messages, *item.completion)
        template = self._tokenizer.chat_template_for(item.tools)
        if template is None:
            raise UserError(
                "a row is a conversation, and the tokenizer has no chat template. Set "
                f"data.chat_template to one of {', '.join(chat.templates())}."
            )
        try:
            text, spans = chat.render_spans(template, messages, item.tools, self._names)
        except UserError as error:
            raise BadRow(place, str(error)) from error
        _check_whole(text, messages, item, place)
        if not self._config.assistant_only_loss:
            spans = [(0, len(text))]
        elif not chat.marks_generation(template):
            spans = self._by_prefixes(text, messages, item, place)
        if item.completion and self._config.completion_only_loss:
            start = len(self._prefix(text, item.messages, True, item, place))
            spans = [(max(low, start), high) for low, high in spans if high > start]
        return Marked(text, spans, True)

    def _by_prefixes(
        self, text: str, messages: Sequence[Message], item: Chat, place: str
    ) -> chat.Spans:
        """What the assistant wrote: what each of its messages adds behind the prompt for it."""
        spans = []
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                start = len(self._prefix(text, messages[:number], True, item, place))
                end = len(self._prefix(text, messages[: number + 1], False, item, place))
                spans.append((start, end))
        return spans

    def _prefix(
        self, text: str, messages: Sequence[Message], prompt: bool, item: Chat, place: str
    ) -> str:
        """The beginning of a conversation as the template writes it alone."""
        template = self._tokenizer.chat_template_for(item.tools)
        try:
            begin = chat.render(template, messages, prompt, item.tools, self._names)
        except UserError as error:
            raise BadRow(place, f"the first {len(messages)} messages alone: {error}") from error
        if not text.startswith(begin):
            at = next(n for n in range(len(begin)) if text[n : n + 1] != begin[n])
            raise BadRow(
                place, "the chat template writes the beginning of the conversation otherwise "
                f"when it ends after message {len(messages)} (from character {at}: "
                f"{begin[at : at + SHOWN]!r} instead of {text[at : at + SHOWN]!r}), so what the "
                "model wrote cannot be told. Use a template with {% generation %} marks, such as "
                "data.chat_template='chatml', or set data.assistant_only_loss=False",
            )
        return begin


def with_template(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with a chat template of the package, where one is named.

    Raises:
      UserError: there is no such template.
    """
    if not name:
        return tokenizer
    template = chat.named(name, lambda text: len(tokenizer.encode_chat([text])[0][0]))
    return tokenizer.with_chat_template(template)


def trained_tokens(spans: chat.Spans, places: Sequence[int]) -> np.ndarray:
    """Bool [n]: the place of the token's last character lies in a span. Spans are in order."""
    edges = np.array(spans, np.int64).reshape(-1)
    return np.searchsorted(edges, np.asarray(places, np.int64), "right") % 2 == 1


def _check_whole(text: str, messages: Sequence[Message], item: Chat, place: str) -> None:
    """Refuses a text in which a message, or a tool, is not to be found."""
    at = 0
    for number, (role, content) in enumerate(contents(messages), 1):
        # a system message may stand anywhere: some templates put it into the last question
        found = text.find(content, 0 if role in ("system", "developer") else at)
        if found < 0:
            raise BadRow(
                place, f"the chat template drops text {number}, of {role!r}: "
                f"{content[:SHOWN]!r} does not stand where it should. Choose another "
                "data.chat_template",
            )
        if role not in ("system", "developer"):
            at = found + len(content)
    for tool in item.tools or ():
        name = (tool.get("function") or tool).get("name")
        if isinstance(name, str) and name not in text:
            raise BadRow(
                place, f"the chat template drops the tools: {name!r} is not to be found. Choose "
                "another data.chat_template, such as 'chatml'",
            )
