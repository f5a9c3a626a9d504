"""Chat templates render as transformers renders them, and their faults are the user's."""

import datetime
import json

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.data.tokenizers import byte, chat

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{%- endif %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n' + call.function.name + (call.function.arguments | tojson) }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not (tools and loop.first and message.role == 'system') %}
        {%- if message.reasoning_content is defined %}
            {{- '<think>' + message.reasoning_content + '</think>' }}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
HEADERS = """{{- bos_token }}
{%- set date_string = strftime_now("%d %b %Y") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

Today Date: {{ date_string }}
{% if tools %}
  {% for t in tools %}
    {{ t | tojson(indent=4) }}
  {% endfor %}
{% endif %}
{{ system_message }}{{ eos_token }}
{%- for message in messages if message.content is defined %}
    {%- if message['role'] == 'assistant' %}
        {% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}
    {%- else %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim }}
    {%- endif %}
    {% if loop.last %}{% break %}{% endif %}
{%- endfor %}
"""
TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}{{ ns.count }}"""
SYSTEM = {"role": "system", "content": " Be <brief> & 'kind'. "}
TALK = [
    {"role": "user", "content": "  Grüße, 漢字 <b>&</b> \"you\"\n"},
    {"role": "assistant", "content": "Hi!", "tool_calls": None},
    {"role": "user", "content": "And now?"},
]
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"type": "function", "function": {"name": "get", "arguments": {"city": "Zürich", "n": 2}}}]}
THOUGHT = [TALK[0], {"role": "assistant", "content": "Four.", "thinking": "2 + 2"}, TALK[2]]
TOOLS = [{"type": "function", "function": {"name": "get", "description": "É <x>", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
CASES = {
    "chatml": (CHATML, [SYSTEM, *TALK], None), "chatml tools": (CHATML, [SYSTEM, *TALK], TOOLS),
    "chatml call": (CHATML, [TALK[0], CALL], TOOLS), "chatml thought": (CHATML, THOUGHT, None),
    "headers": (HEADERS, [SYSTEM, *TALK], None), "headers tools": (HEADERS, TALK, TOOLS),
    "turns": (TURNS, TALK, None),
}


@pytest.fixture
def make(tmp_path):
    """A Hugging Face tokenizer of a few tokens, with these settings."""
    from tokenizers import Tokenizer, models

    def make(file=None, **config):
        made = Tokenizer(models.BPE({"a": 0, "<s>": 1, "</s>": 2}, []))
        made.add_special_tokens(["<s>", "</s>"])
        made.save(str(tmp_path / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                  "eos_token": "</s>", **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        if file:
            (tmp_path / "chat_template.jinja").write_text(file)
        return tmp_path

    return make


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prompt", [False, True])
def test_rendered_as_transformers_does(make, case, prompt):
    transformers = pytest.importorskip("transformers")
    template, messages, tools = CASES[case]
    folder = make(chat_template=template)
    options = {"add_generation_prompt": prompt, "tools": tools}
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, **options
    )
    assert tokenizers.load(folder).apply_chat_template(messages, **options) == theirs
    assert len(theirs) > 60


def test_the_file_comes_before_the_configuration(make, tmp_path):
    ours = tokenizers.load(make(file=TURNS, chat_template=CHATML))
    assert ours.chat_template == TURNS
    ours.save(tmp_path / "saved")
    assert tokenizers.load(tmp_path / "saved").chat_template == TURNS


def test_named_templates(make):
    named = [{"name": "default", "template": "{{ bos_token }}plain"},
             {"name": "tool_use", "template": "with {{ tools | length }} tool"}]
    ours = tokenizers.load(make(chat_template=named))
    assert ours.chat_template == "{{ bos_token }}plain"
    assert ours.apply_chat_template(TALK) == "<s>plain"
    assert ours.apply_chat_template(TALK, tools=TOOLS) == "with 1 tool"


@pytest.mark.parametrize(("template", "messages", "message"), [
    (TURNS, [SYSTEM, *TALK], "System role not supported"),
    (TURNS, [TALK[0], TALK[0]], "must alternate"),
    (TURNS, [], "at least one message"), (TURNS, "Hello", "at least one message"),
    (TURNS, ["Hello"], "dict"), ("{% if %}", TALK, "chat template"),
    ("{{ messages[9].content.x }}", TALK, "chat template"),
    ("{{ messages.append(1) }}", TALK, "chat template"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TALK, "chat template"),
])
def test_a_refused_conversation_is_explained(make, template, messages, message):
    ours = tokenizers.load(make(chat_template=template))
    with pytest.raises(UserError, match=message) as error:
        ours.apply_chat_template(messages)
    assert "\n" not in str(error.value)


def test_without_a_template():
    with pytest.raises(UserError, match=r"\(byte\) has no chat template"):
        byte.ByteTokenizer().apply_chat_template(TALK)


def test_today():
    text = chat.render("{{ strftime_now('%Y') }}", TALK, False, None, {})
    assert abs(int(text) - datetime.datetime.now().year) <= 1
