"""What a row is, by the columns that it has: the formats of TRL, ShareGPT and Alpaca.

A format checks a row's fields and makes an item of them, which says the same whatever the columns
were called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxllm.core.errors import unknown
from jaxllm.data.rows.messages import Message, check_roles, from_sharegpt, to_messages, to_tools
from jaxllm.data.rows.row import BadRow


class Text(NamedTuple):
    """A text, all of which is learned."""

    text: str


class Pair(NamedTuple):
    """What is given and what shall follow."""

    prompt: str
    completion: str


class Chat(NamedTuple):
    """A conversation; `completion` is empty where no part of it is given as a prompt."""

    messages: tuple[Message, ...]
    completion: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None


class Labelled(NamedTuple):
    """A text and its class."""

    text: str
    label: str | int


class Tagged(NamedTuple):
    """Words and their tags."""

    tokens: tuple[str, ...]
    tags: tuple[str | int, ...]


Item = Text | Pair | Chat | Labelled | Tagged
Fields = Mapping[str, Any]


class Format(NamedTuple):
    """The columns that make a row one of this format, and the item that they make."""

    columns: tuple[str, ...]
    item: Callable[[Fields, str], Item]


def recognise(fields: Fields, place: str, formats: Sequence[str], field: str) -> str:
    """The first of `formats` whose columns the row has; `field` names the source.

    Raises:
      BadRow: it has none of them.
    """
    for name in formats:
        if all(column in fields for column in FORMATS[name].columns):
            return name
    wanted = "; ".join(" + ".join(FORMATS[name].columns) for name in formats)
    raise BadRow(
        place, f"its columns are {', '.join(map(str, fields)) or 'none'}, and one of these is "
        f"wanted: {wanted}. Say which column is which with {field}.columns, such as "
        f"{field}.columns.{FORMATS[formats[0]].columns[0]}='NAME'",
    )


def check_format(name: str, formats: Sequence[str], field: str) -> None:
    """Refuses a format that the objective does not read.

    Raises:
      UserError: with the nearest one.
    """
    if name not in formats:
        raise unknown(field, name, formats)


def key_of(item: Item) -> bytes:
    """Bytes that are the same for equal items: what a row's split is chosen by."""
    return json.dumps([type(item).__name__, *item], ensure_ascii=True, default=str).encode()


def text_of(fields: Fields, name: str, place: str) -> str:
    """A field that is text with something to read.

    Raises:
      BadRow: it is missing, null, empty or no text.
    """
    value = fields.get(name)
    if not isinstance(value, str):
        what = "missing or null" if value is None else f"{type(value).__name__}, no text"
        raise BadRow(place, f"the field {name!r} is {what}")
    if not value.strip():
        raise BadRow(place, f"the field {name!r} is empty")
    return value


def _text(fields: Fields, place: str) -> Text:
    return Text(text_of(fields, "text", place))


def _prompt_completion(fields: Fields, place: str) -> Pair | Chat:
    """Both may be conversations, as in TRL."""
    kinds = {isinstance(fields[name], str | None) for name in ("prompt", "completion")}
    if kinds == {False}:
        prompt = to_messages(fields["prompt"], "prompt", place)
        completion = to_messages(fields["completion"], "completion", place)
        check_roles((*prompt, *completion), place)
        return Chat(prompt, completion, to_tools(fields, place))
    if kinds == {True}:
        return Pair(*(text_of(fields, name, place) for name in ("prompt", "completion")))
    raise BadRow(place, "of 'prompt' and 'completion' one is text and one is messages")


def _messages(fields: Fields, place: str) -> Chat:
    messages = to_messages(fields["messages"], "messages", place)
    check_roles(messages, place)
    return Chat(messages, (), to_tools(fields, place))


def _sharegpt(fields: Fields, place: str) -> Chat:
    turns = from_sharegpt(fields["conversations"], fields.get("system"), place)
    messages = to_messages(turns, "conversations", place)
    check_roles(messages, place)
    return Chat(messages, (), to_tools(fields, place))


def _alpaca(fields: Fields, place: str) -> Chat:
    """A conversation of one turn: the instruction and its input, a line between them."""
    asked = text_of(fields, "instruction", place)
    if more := (fields.get("input") or ""):
        asked = f"{asked}\n{more}"
    system = [("system", fields["system"])] if fields.get("system") else []
    for old in _history(fields.get("history") or [], place):
        system += zip(("user", "assistant"), old, strict=True)
    turns = [*system, ("user", asked)]
    prompt = [{"role": role, "content": content} for role, content in turns]
    answer = [{"role": "assistant", "content": text_of(fields, "output", place)}]
    return Chat(
        to_messages(prompt, "instruction", place), to_messages(answer, "output", place), None
    )


def _history(value: Any, place: str) -> Sequence[Sequence[str]]:
    """What was asked and answered before."""
    def is_list(one: Any) -> bool:
        return isinstance(one, Sequence) and not isinstance(one, str)

    if not is_list(value) or not all(is_list(turn) and len(turn) == 2 for turn in value):
        raise BadRow(place, "the field 'history' is no list of pairs of a question and its answer")
    return value


def _source_target(fields: Fields, place: str) -> Pair:
    return Pair(*(text_of(fields, name, place) for name in ("source", "target")))


def _text_label(fields: Fields, place: str) -> Labelled:
    return Labelled(text_of(fields, "text", place), _label(fields["label"], "label", place))


def _tokens_tags(fields: Fields, place: str) -> Tagged:
    tokens, tags = fields["tokens"], fields["tags"]
    for name, values in (("tokens", tokens), ("tags", tags)):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise BadRow(place, f"the field {name!r} is no list of words, or empty")
    if len(tokens) != len(tags):
        raise BadRow(place, f"{len(tokens)} tokens and {len(tags)} tags")
    for number, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            raise BadRow(place, f"token {number} is {token!r}, no word")
    return Tagged(tuple(tokens), tuple(_label(tag, "tags", place) for tag in tags))


def _label(value: Any, name: str, place: str) -> str | int:
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int):
        return value
    what = f"{value!r}, neither text nor a whole number"
    raise BadRow(
        place, f"the field {name!r} is {'missing or empty' if value in (None, '') else what}"
    )


FORMATS = {
    "messages": Format(("messages",), _messages),
    "sharegpt": Format(("conversations",), _sharegpt),
    "prompt_completion": Format(("prompt", "completion"), _prompt_completion),
    "alpaca": Format(("instruction", "output"), _alpaca),
    "source_target": Format(("source", "target"), _source_target),
    "text_label": Format(("text", "label"), _text_label),
    "tokens_tags": Format(("tokens", "tags"), _tokens_tags),
    "text": Format(("text",), _text),
}
