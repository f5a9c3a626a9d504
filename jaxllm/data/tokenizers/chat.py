"""Chat templates: a conversation's text, as a model's jinja2 template writes it.

A template is code from whoever published the model, so it runs in jinja2's sandbox. The settings
are those of transformers (`utils/chat_template_utils.py`), so that both render the same text.

The folder `templates` has some by name, for models that have none of their own.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxllm.core.errors import UserError, unknown

# Around what a template says the model writes; Unicode keeps these from ever being characters.
START, END = "\ufdd0", "\ufdd1"
MARKS = re.compile(f"[{START}{END}]")
STOP = re.compile(r"stop = '([^']+)'")  # how the named templates say what ends a turn
Spans = list[tuple[int, int]]  # characters from … to before …
ENDING = ".jinja"
REASONING = ("reasoning_content", "thinking", "reasoning")  # names for one thing


def render(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None, special_names: Mapping[str, str],
) -> str:
    """The text of a conversation; `special_names` are bos_token and the like.

    Raises:
      UserError: no messages, or the template is broken or refuses them.
    """
    return MARKS.sub("", _render(template, messages, add_generation_prompt, tools, special_names))


def render_spans(
    template: str, messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None, special_names: Mapping[str, str],
) -> tuple[str, Spans]:
    """The text of a conversation, and what `{% generation %}` marks in it; raises as `render`."""
    marked = _render(template, messages, False, tools, special_names)
    starts, ends, text, last = [], [], [], 0
    for number, match in enumerate(MARKS.finditer(marked)):
        text.append(marked[last : match.start()])
        (starts if match[0] == START else ends).append(match.start() - number)
        last = match.end()
    return "".join(text) + marked[last:], list(zip(starts, ends, strict=True))


def marks_generation(template: str) -> bool:
    """Whether a template says itself what the model writes."""
    return re.search(r"\{%-?\s*generation\b", template) is not None


def templates() -> list[str]:
    """The names of the templates that come with the package."""
    folder = resources.files(__package__) / "templates"
    return sorted(file.name.removesuffix(ENDING) for file in folder.iterdir()
                  if file.name.endswith(ENDING))


def named(name: str, tokens: Callable[[str], int]) -> str:
    """A template of the package, for a tokenizer that encodes a text to `tokens(text)` tokens.

    A turn ends with the template's own token where the tokenizer knows it, and else with the end
    of text: pieces of a name end nothing.

    Raises:
      UserError: there is no such template.
    """
    if name not in templates():
        raise unknown("data.chat_template", name, templates())
    text = (resources.files(__package__) / "templates" / f"{name}{ENDING}").read_text("utf-8")
    found = STOP.search(text)
    return text if found is None or tokens(found[1]) == 1 else STOP.sub("stop = eos_token", text)


def _render(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None, special_names: Mapping[str, str],
) -> str:
    """The text with marks."""
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
            f"The chat template does not accept this conversation ({reason}). Check the "
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
    """`{% generation %}` … `{% endgeneration %}` is what the model writes."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 asks for a set)

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        start, end = (
            nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (START, END)
        )
        return [start, *body, end]


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
