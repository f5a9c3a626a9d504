"""The preview shows each token as the loss sees it, and nothing in a text can act on the screen."""

import numpy as np

from jaxllm.data import preview
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.objectives import causal
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.data.windows import Window

from .corpora import quiet

TOKENIZER = ByteTokenizer()


def make_row(documents, length):
    """A packed example of whole documents, each followed by the end of text."""
    ids = [[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in documents]
    starts = [place == 0 for row in ids for place in range(len(row))]
    tokens = np.concatenate(ids).astype(np.int32)[: length + 1]
    window = Window(tokens, np.array(starts)[: length + 1])
    return causal.example(window, length, np.random.default_rng(0))


def styles(text):
    """(substring, style) of every piece."""
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_documents_have_colours_and_untrained_tokens_are_struck():
    text = preview.render_row(make_row(["ab", "cd"], 12), TOKENIZER)
    assert text.plain == "ab¶\ncd¶ 7 of padding "
    pieces = styles(text)
    first, second = preview.COLOURS[:2]
    assert pieces[:6] == [
        ("a", f"{first} {preview.UNTRAINED}"), ("b", first), ("¶", first),
        ("c", f"{second} {preview.UNTRAINED}"), ("d", second), ("¶", second),
    ]
    assert pieces[6] == (" 7 of padding ", preview.PADDING)


def test_numbers_of_a_row():
    stats = preview.row_stats(make_row(["ab", "cd"], 12))
    assert stats == (2, 7 / 12, 4 / 12)
    full = make_row(["abcdefgh"], 4)
    assert preview.row_stats(full) == (1, 0.0, 1.0)
    assert preview.render_row(full, TOKENIZER).plain == "abcde"


def test_characters_of_several_tokens_stay_whole():
    assert preview.render_row(make_row(["é漢😀"], 20), TOKENIZER).plain.startswith("é漢😀¶")


def test_markup_and_control_characters_are_only_text():
    text = preview.render_row(make_row(["[bold]x[/] \x1b[31m\r\x07"], 40), TOKENIZER)
    assert text.plain.startswith("[bold]x[/] ␛[31m␍␇¶")


def test_a_whole_preview(corpora, capsys):
    mixture = {name: SourceConfig(str(corpora / name), w) for name, w in (("a", 0.5), ("b", 0.5))}
    stats = preview.preview(DataConfig(48, 4, mixture=mixture), 3, step=5, rows=9, display=quiet())
    out = capsys.readouterr().out
    assert len(stats) == 4 and "4 of 4 rows of 48 tokens" in out
    assert "step 5, row 0, " in out and out.count(", a ") == out.count(", b ") == 2
    assert "\x1b" not in out
