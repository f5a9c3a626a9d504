"""Chat templates: a conversation's text, as a model's jinja2 template writes it.

A template is code from whoever published the model, so it runs in jinja2's sandbox. The settings
are those of transformers (`utils/chat_template_utils.py`), so that both render the same text.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxllm.core.errors import UserError

REASONING = ("reasoning_content", "thinking", "reasoning")  # names for one thing


def render(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None, special_names: Mapping[str, str],
) -> str:
    """The text of a conversation; `special_names` are bos_token and the like.

    Raises:
      UserError: no messages, or the template is broken or refuses them.
    """
    if isinstance(messages, str | Mapping) or not messages:
        raise UserError(
            "A chat needs a list of at least one message, such as "
            "[{'role': 'user', 'content': 'Hello'}]."
        )
    if not all(isinstance(message, Mapping) for message in messages):
        raise UserError("Each message of a chat is a dict, such as {'role': …, 'content': …}.")
    try:
        return _compiled(template).render(
            messages=[_plain(message) for message in messages], documents=None,
            tools=None if tools is None else [dict(tool) for tool in tools],
            add_generation_prompt=add_generation_prompt, **special_names,
        )
    except Exception as error:  # the template's code may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The model's chat template does not accept this conversation ({reason}). Check the "
            "roles and their order: most templates want user and assistant in turn, after at most "
            "one system message."
        ) from error


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without empty fields, with its reasoning under the names that templates read."""
    fields = {name: value for name, value in message.items() if value is not None}
    reasoning = next((fields[name] for name in REASONING if name in fields), None)
    if reasoning is None:
        return fields
    return {"thinking": reasoning, **fields, "reasoning_content": reasoning}


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` marks what the model writes: here, just text."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 asks for a set)

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """jinja2's own would write HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def _raise(message: str):
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
