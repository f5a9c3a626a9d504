"""The preview of rows: what is learned is plain, the rest is struck; labels, tags and pairs."""

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import preview_rows
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.preview import preview
from jaxllm.data.rows.formats import Labelled, Pair, Tagged
from jaxllm.data.rows.labels import Labels
from jaxllm.data.shown import COLOURS, PADDING, UNTRAINED

from ..corpora import quiet
from .test_objectives import BYTES, WRAPPING, encode, make


def pieces(text):
    """(substring, style) of runs of one style."""
    runs = []
    for span in text.spans:
        part = text.plain[span.start : span.end]
        if runs and runs[-1][1] == str(span.style):
            runs[-1] = (runs[-1][0] + part, runs[-1][1])
        else:
            runs.append((part, str(span.style)))
    return runs


def test_struck_is_what_is_not_learned():
    sft = make("sft", 16)
    row = sft.example(encode(sft, Pair("a b", "c\x1b"), Pair("é", "x")), None)
    text = preview_rows.render_examples(row, BYTES)
    assert text.plain == "a␣bc␛¶\néx¶ 8 of padding "
    first, second = COLOURS[:2]
    assert pieces(text) == [
        ("a␣b", f"{first} {UNTRAINED}"), ("c␛¶", first), ("é", f"{second} {UNTRAINED}"),
        ("x¶", second), (" 8 of padding ", PADDING),
    ]


def test_a_label_is_named():
    objective = make("classification", 6, WRAPPING)
    row = objective.example(encode(objective, Labelled("ab", "no"), Labelled("c", "yes"))[1:], None)
    render, _ = preview_rows.renderer("classification", ("no", "yes"))
    assert render(row, WRAPPING).plain == "<cls>c¶ 3 of padding \n→ yes"


def test_tags_follow_their_words():
    objective = make("token_classification", 16, WRAPPING)
    names = ("O", "B-x", "I-x", "B-y")
    item = Tagged(("ab", "é", "d", "e"), ("B-x", "I-x", "O", "B-y"))
    row = objective.example(encode(objective, item, labels=Labels(names)), None)
    render, _ = preview_rows.renderer("token_classification", names)
    text = render(row, WRAPPING)
    assert text.plain == "<cls>ab‹B-x› é‹I-x› d e‹B-y›¶ 5 of padding "
    assert ("‹B-x›", f"{COLOURS[0]} italic") in pieces(text)
    assert ("‹B-y›", f"{COLOURS[1]} italic") in pieces(text)


ROWS = {
    "sft": {"messages": [{"role": "user", "content": "question"},
                         {"role": "assistant", "content": "answer"}]},
    "seq2seq": {"source": "question", "target": "answer"},
    "classification": {"text": "question", "label": "answer"},
    "token_classification": {"tokens": ["question", "why"], "tags": ["B-answer", "O"]},
}


@pytest.mark.parametrize("objective", ROWS)
def test_every_objective_of_rows_can_be_previewed(folders, write, tmp_path, capsys, objective):
    WRAPPING.save(tmp_path / "wrapping")
    fields = {"chat_template": "chatml", "assistant_only_loss": True} if objective == "sft" else {}
    config = DataConfig(96, objective=objective, mixture={
        "a": SourceConfig(write([ROWS[objective]] * 20))}, **fields)
    stats = preview(config, 3, step=5, rows=2, display=quiet(),
                    tokenizer_path=str(tmp_path / "wrapping"))
    out = capsys.readouterr().out
    assert len(stats) == 2 and all(0 < row.trained < 1 for row in stats)
    assert "question" in out and "answer" in out
    assert ("encoder reads" in out) == (objective == "seq2seq")


def test_rows_that_train_on_nothing_are_refused(folders, write):
    rows = [ROWS["sft"], {"messages": ROWS["sft"]["messages"][:1]}, ROWS["sft"]]
    config = DataConfig(96, objective="sft", chat_template="chatml", assistant_only_loss=True,
                        mixture={"a": SourceConfig(write(rows))})
    with pytest.raises(UserError, match=r"1 row .*rows.jsonl, line 2: it trains on nothing"):
        preview(config, 3, step=1, rows=2, display=quiet(), tokenizer_path=str(folders["byte"]))
