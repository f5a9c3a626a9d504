"""A teacher's answers as rows: what is kept, what is left out, what a second call does."""

import json
from types import SimpleNamespace

import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.generate.distill import PART, Answering, write_answers
from jaxllm.generate.rows import Completion


class Teacher:
    """Answers with the prompt in capitals; "?" runs out of tokens, "" has nothing to say."""

    def __init__(self):
        self.asked = []
        self.tokenizer = SimpleNamespace(
            apply_chat_template=lambda messages, add_generation_prompt: "|".join(
                m["content"] for m in messages
            )
        )

    def generate(self, prompts, seed, **drawing):
        self.asked.append((list(prompts), seed, drawing))
        return [
            Completion("" if "silent" in p else p.upper(), (), "length" if "?" in p else "stop")
            for p in prompts
        ]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


ROWS = [
    {"prompt": "one", "id": 7}, {"prompt": "why?"}, {"prompt": "silent"},
    {"messages": [
        {"role": "system", "content": "be"}, {"role": "user", "content": "short"},
        {"role": "assistant", "content": "old"},
    ]},
]


def test_rows_for_fine_tuning(tmp_path):
    teacher, output = Teacher(), tmp_path / "rows.jsonl"
    how = Answering(batch=2, seed=5, drawing={"temperature": 0.0})
    counts = write_answers(
        teacher, write(tmp_path / "p.jsonl", ROWS), str(output), how, make_display()
    )
    assert read(output) == [
        {"prompt": "one", "id": 7, "completion": "ONE"},
        {"messages": [*ROWS[3]["messages"][:2], {"role": "assistant", "content": "BE|SHORT"}]},
    ]
    assert (counts.written, counts.unfinished, counts.empty) == (2, 1, 1)
    assert [(seed, drawing) for _, seed, drawing in teacher.asked] == [
        (5, {"temperature": 0.0}), (7, {"temperature": 0.0}),
    ]
    assert not (tmp_path / f"rows.jsonl{PART}").exists()
    with pytest.raises(UserError, match="exists"):
        write_answers(teacher, str(tmp_path / "p.jsonl"), str(output), how, make_display())


def test_a_stopped_job_goes_on(tmp_path):
    prompts, output = write(tmp_path / "p.jsonl", ROWS), tmp_path / "rows.jsonl"
    first = [{"prompt": "one", "id": 7, "completion": "ONE"}, None]
    write(tmp_path / f"rows.jsonl{PART}", first)
    teacher = Teacher()
    write_answers(
        teacher, prompts, str(output), Answering(batch=2, keep_unfinished=True), make_display()
    )
    assert [asked for asked, _, _ in teacher.asked] == [["silent", "be|short"]]
    assert len(read(output)) == 2


@pytest.mark.parametrize(("line", "words"), [
    ("{broken", "line 1 is no JSON"), ('{"text": "a"}', "neither `prompt` nor `messages`"),
    ('{"messages": [{"role": "system", "content": "a"}]}', "none of the user"),
])
def test_mistakes_name_the_line(tmp_path, line, words):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=words):
        write_answers(
            Teacher(), str(tmp_path / "p.jsonl"), str(tmp_path / "o"), Answering(), make_display()
        )
