"""Conversations: messages of roles and contents, in an order that a model can answer in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxllm.data.rows.row import BadRow

Message = Mapping[str, Any]
# ShareGPT's names.
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}
# What may follow a role; "" is the beginning.
FOLLOWING = {
    "": ("system", "developer", "user"), "system": ("user",), "developer": ("user",),
    "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant"),
}


def to_messages(value: Any, name: str, place: str) -> tuple[Message, ...]:
    """The messages of a field; their contents are text, tool calls have their arguments as objects.

    Raises:
      BadRow: no list of messages, or one without a role, or with nothing in it.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow(place, f"the field {name!r} is no list of messages, or empty")
    return tuple(_message(one, f"message {n} of {name!r}", place) for n, one in enumerate(value, 1))


def check_roles(messages: Sequence[Message], place: str) -> None:
    """Refuses roles that are out of order.

    Raises:
      BadRow: naming the message.
    """
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in FOLLOWING:
            known = ", ".join(name for name in FOLLOWING if name)
            raise BadRow(place, f"message {number} has the role {role!r}; known are {known}")
        if role not in FOLLOWING[before]:
            due = " or ".join(FOLLOWING[before])
            after = f"after {before!r}" if before else "at the beginning"
            raise BadRow(
                place, f"roles out of order: message {number} is of {role!r}, and {after} comes "
                f"{due}",
            )
        before = role


def to_tools(fields: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...] | None:
    """The field `tools`, a list of JSON schemas or its JSON; None where there are none.

    Raises:
      BadRow: it is something else.
    """
    tools = fields.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise BadRow(place, f"the field 'tools' is no JSON: {error}") from error
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(
        isinstance(tool, Mapping) and isinstance(tool.get("function") or {}, Mapping)
        for tool in tools
    ):
        raise BadRow(place, "the field 'tools' is no list of JSON schemas")
    return tuple(tools)


def from_sharegpt(value: Any, system: Any, place: str) -> list[Message]:
    """ShareGPT's `from` and `value` as roles and contents.

    Raises:
      BadRow: no list of such messages.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(place, "the field 'conversations' is no list of messages")
    messages: list[Message] = []
    if isinstance(system, str) and system.strip():
        messages.append({"role": "system", "content": system})
    for number, one in enumerate(value, 1):
        if not isinstance(one, Mapping) or not isinstance(one.get("from", one.get("role")), str):
            raise BadRow(place, f"message {number} of 'conversations' has no 'from'")
        who, said = one.get("from", one.get("role")), one.get("value", one.get("content"))
        role = ROLES.get(who, who)
        if who == "function_call":
            calls = _calls(said, number, place)
            messages.append({"role": role, "content": "", "tool_calls": calls})
        else:
            messages.append({"role": role, "content": said})
    return messages


def _message(value: Any, name: str, place: str) -> Message:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise BadRow(place, f"{name} has no role")
    message = {key: field for key, field in value.items() if field is not None}
    content = message.get("content", "")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise BadRow(place, f"{name} has a content that is no text")
        content = "".join(parts)
    if not isinstance(content, str):
        raise BadRow(place, f"{name} has a content of {type(content).__name__}, no text")
    if not content.strip() and not message.get("tool_calls"):
        raise BadRow(place, f"{name} ({message['role']}) is empty")
    message["content"] = content
    if calls := message.get("tool_calls"):
        if not isinstance(calls, Sequence):
            raise BadRow(place, f"{name} has tool_calls that are no list")
        message["tool_calls"] = [_call(call, name, place) for call in calls]
    return message


def _call(call: Any, name: str, place: str) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, Mapping) else {}
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise BadRow(place, f"{name} has a tool call without a name")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise BadRow(place, f"{name}: the call's arguments are no JSON: {error}") from error
    function = {**inner, "arguments": arguments}
    return {**call, "type": "function", "function": function} if "function" in call else {
        "type": "function", "function": function,
    }


def _calls(said: Any, number: int, place: str) -> list[Any]:
    try:
        calls = json.loads(said) if isinstance(said, str) else said
    except ValueError as error:
        raise BadRow(place, f"message {number}: a function_call is no JSON: {error}") from error
    return calls if isinstance(calls, list) else [calls]


def contents(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Role and each text of the messages that a template must show."""
    for message in messages:
        # templates may leave out what a model thought before
        yield message["role"], message["content"].rpartition("</think>")[2].strip()
        for call in message.get("tool_calls") or ():
            yield message["role"], call["function"]["name"]
