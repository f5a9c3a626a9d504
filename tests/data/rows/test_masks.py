"""What of a row is trained on, against transformers and TRL's rule."""

import itertools

import pytest
from tokenizers import processors

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import make_objective
from jaxllm.data.rows.formats import Chat, Pair, Text
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.render import with_template
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers import chat, load

from .conftest import BEGIN, END

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "To be or not?"}, {"role": "assistant", "content": "Not, é 😀."},
    {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "sum", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}}}}]
CALLS = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "2"}, {"role": "assistant", "content": "Two."},
]
PLAIN = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
         "{% if add_generation_prompt %}[assistant]{% endif %}")  # without marks
WITH_TOOLS = ("chatml", "llama3")


def encode(tokenizer, item, **fields):
    """Ids, and the text of each run of tokens that is trained on."""
    config = DataConfig(512, objective="sft", **fields)
    objective = make_objective(config, lambda: tokenizer)
    found = objective.encode([(item, "f, line 1")], Labels(()))[0]
    if isinstance(found, BadRow):
        raise found
    return found["ids"].tolist(), found["trained"].tolist()


def spelled(tokenizer, ids, trained):
    """The text of each run of tokens that is trained on, special ones as text."""
    runs, before = [], False
    for token, is_trained in zip(ids, trained, strict=True):
        if is_trained:
            runs = runs if before else [*runs, []]
            runs[-1].append(token)
        before = is_trained
    names = {token: tokenizer.token_text(token) for token in tokenizer.special_ids}
    return ["".join(
        "".join(names[token] for token in part) if special else tokenizer.decode(list(part))
        for special, part in itertools.groupby(run, names.__contains__)
    ) for run in runs]


def theirs(hf, template, messages, tools=None):
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoTokenizer.from_pretrained(hf)
    # with offsets that leave out spaces it finds no token for a span that begins with one
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    found = made.apply_chat_template(
        messages, tools=tools, chat_template=template, tokenize=True, return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return found["input_ids"], [bool(one) for one in found["assistant_masks"]]


@pytest.mark.parametrize("name", chat.templates())
@pytest.mark.parametrize("system", [False, True])
def test_the_assistants_tokens_are_those_of_transformers(hf, name, system):
    tokenizer = with_template(load(hf), name)
    messages = [SYSTEM, *TALK] if system else TALK
    ours = encode(tokenizer, Chat(tuple(messages), (), None), assistant_only_loss=True)
    assert ours == theirs(hf, tokenizer.chat_template, messages)
    assert sum(ours[1]) > 5 and not ours[1][0]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools_and_calls_are_those_of_transformers(hf, name):
    tokenizer = with_template(load(hf), name)
    item = Chat((SYSTEM, *CALLS), (), tuple(TOOLS))
    ours = encode(tokenizer, item, assistant_only_loss=True)
    assert ours == theirs(hf, tokenizer.chat_template, [SYSTEM, *CALLS], TOOLS)
    assert len(spelled(tokenizer, *ours)) == 2


@pytest.mark.parametrize("name", ["gemma", "mistral", "alpaca"])
def test_a_template_without_a_place_for_tools_says_so(hf, name):
    tokenizer = with_template(load(hf), name)
    with pytest.raises(BadRow, match="no place for tools"):
        encode(tokenizer, Chat((SYSTEM, *CALLS), (), tuple(TOOLS)))


def test_without_marks_the_prefixes_tell_what_the_assistant_wrote(hf):
    marked = ("{% for m in messages %}{% if m.role == 'assistant' %}[assistant]{% generation %}"
              "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}[{{ m.role }}]"
              "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}")
    item = Chat((SYSTEM, *TALK), (), None)
    tokenizer = load(hf).with_chat_template(PLAIN)
    assert encode(tokenizer, item, assistant_only_loss=True) == theirs(
        hf, marked, [SYSTEM, *TALK])


def test_a_template_whose_beginnings_change_is_refused(hf):
    last = ("{% for m in messages %}{{ m.role }}: {{ m.content }}"
            "{{ '!' if loop.last and not add_generation_prompt else '' }}{% endfor %}")
    tokenizer = load(hf).with_chat_template(last)
    encode(tokenizer, Chat(tuple(TALK), (), None))
    with pytest.raises(BadRow, match=r"beginning of the conversation otherwise when it ends after "
                       r"message 2 .*generation.*marks"):
        encode(tokenizer, Chat(tuple(TALK), (), None), assistant_only_loss=True)


@pytest.mark.parametrize(("template", "item", "message"), [
    ("{{ messages[0].content }}", Chat(tuple(TALK), (), None), "drops text 2, of 'assistant'"),
    ("{{ messages[0].content }}{{ messages[1].content }}" * 2, Chat((*TALK[:2], *TALK[:2], TALK[3]),
     (), None), "drops text 5"),
    ("{{ raise_exception('no') }}", Chat(tuple(TALK), (), None), r"does not accept .*\(no\)"),
    (PLAIN, Chat(tuple(TALK), (), tuple(TOOLS)), "drops the tools: 'add' is not to be found"),
    (PLAIN, Chat(tuple(CALLS), (), None), "drops text 3, of 'assistant': 'add'"),
])
def test_a_template_that_drops_something_is_refused(hf, template, item, message):
    with pytest.raises(BadRow, match=message) as error:
        encode(load(hf).with_chat_template(template), item)
    assert str(error.value).startswith("f, line 1: ")


def test_a_conversation_wants_a_template(tokenizer):
    with pytest.raises(UserError, match=r"no chat template. Set data.chat_template to one of alpa"):
        encode(tokenizer("byte"), Chat(tuple(TALK), (), None))
    with pytest.raises(UserError, match=r"data.chat_template='chatlm' .*Did you mean 'chatml'"):
        with_template(tokenizer("byte"), "chatlm")


def trl(hf, prompt, completion):
    """Ids and completion mask of a prompt-completion row as TRL 1.16 tokenises it."""
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoTokenizer.from_pretrained(hf)
    start, ids = made(prompt)["input_ids"], made(prompt + completion + END)["input_ids"]
    shared = next((n for n, (a, b) in enumerate(zip(start, ids, strict=False)) if a != b),
                  len(start))
    return ids, [n >= shared for n in range(len(ids))]


@pytest.mark.parametrize(("prompt", "completion"), [
    ("What is it?", " The king."), ("What is it? ", "The king."), ("é 漢\n", "\nnothing 😀"),
    ("O Romeo, Romeo! wherefore", " art thou Romeo?"), ("a", "b"),
])
def test_prompt_and_completion_are_those_of_trl(hf, prompt, completion):
    assert encode(load(hf), Pair(prompt, completion)) == trl(hf, prompt, completion)


def test_conversational_prompt_and_completion_are_those_of_trl(hf):
    transformers = pytest.importorskip("transformers")
    tokenizer = with_template(load(hf), "chatml")
    made = transformers.AutoTokenizer.from_pretrained(hf)
    made.chat_template = tokenizer.chat_template
    start = made.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)
    ids = made.apply_chat_template(TALK, return_dict=False)
    expected = ids, [n >= len(start) for n in range(len(ids))]
    item = Chat(tuple(TALK[:3]), (TALK[3],), None)
    assert encode(tokenizer, item) == expected
    assert encode(tokenizer, item, completion_only_loss=False) == (ids, [True] * len(ids))


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram", "hf"])
def test_the_spans_of_every_tokenizer(tokenizer, kind):
    """A token that reaches from the prompt into the completion is trained on, one of the prompt
    alone never is."""
    made = tokenizer(kind)
    end = made.token_text(made.eos_id)
    ids, trained = encode(made, Pair("To be or ", "not to be"))
    assert "".join(spelled(made, ids, trained)).removesuffix(end) in ("not to be", " not to be")
    assert ids[-1] == made.eos_id and trained[-1]
    assert made.decode(ids) == "To be or not to be"
    ids, trained = encode(made, Text("To be"))
    assert all(trained) and ids[-1] == made.eos_id
    assert (ids[0] == made.bos_id) == (kind == "hf")
    talk = with_template(made, "chatml")
    ids, trained = encode(talk, Chat(tuple(TALK), (), None), assistant_only_loss=True)
    stop = "<|im_end|>" if kind == "hf" else end
    assert spelled(talk, ids, trained) == [f"Not, é 😀.{stop}", f"Because.{stop}"]


def test_the_end_of_text_is_not_doubled(hf):
    ids, _ = encode(load(hf), Text(f"To be{END}"))
    assert ids[-2:].count(ids[-1]) == 1 and ids == trl(hf, "To be", "")[0]
    tokenizer = load(hf).with_chat_template(PLAIN)
    ids, _ = encode(tokenizer, Chat(tuple(TALK), (), None))
    assert ids[-2:].count(tokenizer.eos_id) == 1 and BEGIN not in tokenizer.decode(ids)


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(hf):
    dated = load(hf).with_chat_template("{{ strftime_now('%d %b %Y') }}: " + PLAIN)
    ids, _ = encode(dated, Chat(tuple(TALK), (), None))
    assert dated.decode(ids).startswith("26 Jul 2024: [user]To be")
    assert not dated.apply_chat_template(TALK).startswith("26 Jul 2024")  # of a real conversation


def test_a_row_that_trains_on_nothing_is_refused(hf):
    tokenizer = with_template(load(hf), "chatml")
    with pytest.raises(BadRow, match=r"f, line 1: it trains on nothing.*assistant_only_loss"):
        encode(tokenizer, Chat((TALK[0],), (), None), assistant_only_loss=True)


def test_the_template_is_saved_with_the_tokenizer_and_changes_no_hash(tokenizer, folders, tmp_path):
    from jaxllm.data.tokenizers.export import export_files

    for kind in ("byte", "hf"):
        plain = tokenizer(kind)
        made = with_template(plain, "chatml")
        assert made.hash == plain.hash and plain.own_template is None
        made.save(tmp_path / kind)
        again = load(tmp_path / kind)
        assert again.hash == plain.hash
        assert again.apply_chat_template(TALK) == made.apply_chat_template(TALK) != ""
        files = export_files(again)
        assert any(made.chat_template.encode()[:40] in content or b"chat_template" in content
                   for content in files.values())
    transformers = pytest.importorskip("transformers")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.apply_chat_template(TALK, tokenize=False) == made.apply_chat_template(TALK)
