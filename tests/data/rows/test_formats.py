"""What rows are taken for, and every way in which they are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.core.errors import UserError
from jaxllm.data.config import ColumnsConfig
from jaxllm.data.rows.columns import Columns
from jaxllm.data.rows.formats import (
    FORMATS,
    Chat,
    Labelled,
    Pair,
    Tagged,
    Text,
    key_of,
    recognise,
)
from jaxllm.data.rows.row import BadRow, Row

SFT = ("messages", "sharegpt", "prompt_completion", "alpaca", "text")
PLACE = "f.jsonl, line 3"
USER, REPLY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def item(row, formats=tuple(FORMATS), **columns):
    fields = Columns(ColumnsConfig(**columns), "data.mixture.x.columns").fields(Row(PLACE, row))
    return FORMATS[recognise(fields, PLACE, formats, "data.mixture.x")].item(fields, PLACE)


@pytest.mark.parametrize(("row", "expected"), [
    ({"text": " a "}, Text(" a ")),
    ({"prompt": "p", "completion": "c", "text": "t"}, Pair("p", "c")),
    ({"source": "s", "target": "t"}, Pair("s", "t")),
    ({"text": "t", "label": "x"}, Labelled("t", "x")),
    ({"text": "t", "label": 0}, Labelled("t", 0)),
    ({"text": "t", "label": True}, Labelled("t", "true")),
    ({"tokens": ["a", "b"], "tags": ["O", "B-x"]}, Tagged(("a", "b"), ("O", "B-x"))),
    ({"tokens": ["a"], "tags": [2]}, Tagged(("a",), (2,))),
    ({"messages": [SYSTEM, USER, REPLY]}, Chat((SYSTEM, USER, REPLY), (), None)),
    ({"messages": [USER, CALL, {"role": "tool", "content": "2"}, REPLY], "tools": TOOLS},
     Chat((USER, CALL, {"role": "tool", "content": "2"}, REPLY), (), tuple(TOOLS))),
    ({"prompt": [USER], "completion": [REPLY]}, Chat((USER,), (REPLY,), None)),
    ({"instruction": "i", "input": "", "output": "o"},
     Chat(({"role": "user", "content": "i"},), ({"role": "assistant", "content": "o"},), None)),
    ({"instruction": "i", "input": "n", "output": "o", "system": "S", "history": [["a", "b"]]},
     Chat((SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
           {"role": "user", "content": "i\nn"}), ({"role": "assistant", "content": "o"},), None)),
])
def test_recognised_by_the_columns(row, expected):
    assert item(row) == expected


def test_sharegpt_with_calls_is_the_same_conversation():
    turns = [
        {"from": "human", "value": "Q"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"}, {"from": "gpt", "value": "A"},
    ]
    tools = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'
    ours = item({"conversations": turns, "system": "S", "tools": tools})
    assert ours == item({"messages": [SYSTEM, USER, CALL, {"role": "tool", "content": "2"}, REPLY],
                         "tools": TOOLS})
    assert item({"conversations": turns[:1] + turns[3:], "tools": ""}).tools is None


def test_contents_in_parts_and_arguments_as_json():
    parts = [{"type": "text", "text": "Q"}]
    call = {"role": "assistant", "content": None, "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]}
    assert item({"messages": [{"role": "user", "content": parts}, call]}) == Chat(
        (USER, CALL), (), None)


def test_columns_are_renamed_and_written_by_templates():
    row = {"question": "1+1", "meta": {"answer": "2"}, "category": "sum", "text": "x"}
    assert item(row, prompt="Q: {{question}}\nA:", completion="meta.answer") == Pair(
        "Q: 1+1\nA:", "2")
    assert item(row, ("text_label",), label="category") == Labelled("x", "sum")
    assert item(row, text="{% if meta %}{{ question | upper }}{% endif %}\n") == Text("1+1\n")


@pytest.mark.parametrize(("columns", "message"), [
    ({"text": "txt"}, r"columns.text='txt' is no column of it. Did you mean 'text'"),
    ({"text": "{{txt}}"}, r"columns.text fails: 'txt' is undefined"),
    ({"text": "{{ text.__class__.__mro__ }}"}, r"columns.text fails.*unsafe"),
])
def test_columns_that_are_not_there(columns, message):
    with pytest.raises(BadRow, match=message) as error:
        item({"text": "x"}, **columns)
    assert str(error.value).startswith(PLACE)


def test_a_template_that_is_none():
    with pytest.raises(UserError, match=r"columns.text='{{ x' is no jinja2 template"):
        Columns(ColumnsConfig(text="{{ x"), "data.mixture.x.columns")


@pytest.mark.parametrize(("row", "message"), [
    ({"txt": "a"}, r"columns are txt, and one of these is wanted: messages; .*prompt \+ compl"),
    ({"text": ""}, "'text' is empty"), ({"text": " \n"}, "'text' is empty"),
    ({"text": None}, "'text' is missing or null"), ({"text": 3}, "'text' is int, no text"),
    ({"prompt": "p", "completion": ""}, "'completion' is empty"),
    ({"prompt": "", "completion": "c"}, "'prompt' is empty"),
    ({"prompt": "p", "completion": None}, "'completion' is missing or null"),
    ({"prompt": "p", "completion": [REPLY]}, "one is text and one is messages"),
    ({"source": "s", "target": " "}, "'target' is empty"),
    ({"text": "t", "label": None}, "'label' is missing or empty"),
    ({"text": "t", "label": 0.5}, "'label' is 0.5, neither text nor a whole number"),
    ({"tokens": [], "tags": []}, "'tokens' is no list of words, or empty"),
    ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags"),
    ({"tokens": ["a", " "], "tags": ["O", "O"]}, "token 1 is ' ', no word"),
    ({"messages": []}, "'messages' is no list of messages, or empty"),
    ({"messages": [{"content": "x"}]}, "message 1 of 'messages' has no role"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, r"message 2 .*is empty"),
    ({"messages": [USER, {"role": "assistant", "content": 3}]}, "content of int"),
    ({"messages": [USER, USER]}, "roles out of order: message 2 is of 'user'.*comes assistant"),
    ({"messages": [{"role": "user", "content": [{"text": 5}]}, REPLY]}, "content that is no text"),
    ({"messages": [USER, {**REPLY, "tool_calls": 5}]}, "message 2 .* tool_calls that are no list"),
    ({"messages": [REPLY, USER]}, "message 1 is of 'assistant', and at the beginning comes"),
    ({"messages": [USER, SYSTEM]}, "roles out of order"),
    ({"messages": [USER, {"role": "bot", "content": "x"}]}, "has the role 'bot'; known are"),
    ({"prompt": [USER], "completion": [USER]}, "roles out of order: message 2"),
    ({"messages": [USER, REPLY], "tools": "{"}, "'tools' is no JSON"),
    ({"messages": [USER, REPLY], "tools": {"a": 1}}, "'tools' is no list"),
    ({"messages": [USER, REPLY], "tools": [{"function": "x"}]}, "'tools' is no list"),
    ({"conversations": [{"value": "x"}]}, "message 1 of 'conversations' has no 'from'"),
    ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{"}]},
     "a function_call is no JSON"),
    ({"instruction": "i", "output": ""}, "'output' is empty"),
    ({"instruction": "i", "output": "o", "history": [5]}, "'history' is no list of pairs"),
    ({"instruction": "i", "output": "o", "history": [["a"]]}, "'history' is no list of pairs"),
])
def test_a_row_that_says_nothing_usable(row, message):
    with pytest.raises(BadRow, match=message) as error:
        item(row)
    assert str(error.value).startswith(PLACE)


@given(st.text(min_size=1), st.text(min_size=1))
def test_equal_items_have_one_key(first, second):
    assert (key_of(Text(first)) == key_of(Text(second))) == (first == second)
    assert key_of(Pair(first, second)) != key_of(Labelled(first, second))
