"""The preview shows each token as the loss sees it, and nothing in a text can act on the screen."""

import numpy as np
import pytest

from jaxllm.data import preview, shown
from jaxllm.data.batch import Window
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.objectives import make_objective, objectives, trains_on_rows
from jaxllm.data.objectives.causal import shifted
from jaxllm.data.tokenizers.byte import ByteTokenizer

from .corpora import quiet, run_prepare, sentences

TOKENIZER = ByteTokenizer()


def make_row(documents, length):
    """A packed example of whole documents, each followed by the end of text."""
    ids = [[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in documents]
    starts = [place == 0 for row in ids for place in range(len(row))]
    tokens = np.concatenate(ids).astype(np.int32)[: length + 1]
    window = Window(tokens, np.array(starts)[: length + 1])
    return shifted(window, length)


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
    assert pieces[6] == (" 7 of padding ", shown.PADDING)


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


RICH = ByteTokenizer(mask=True, sentinels=20)
TEXT = b"The king is dead. Long live the king! "


def make_example(objective, length=80, seed=0):
    made = make_objective(DataConfig(length, objective=objective), lambda: RICH)
    tokens = np.frombuffer((TEXT * 4)[: made.raw_length], np.uint8).astype(np.int32)
    return made.example(Window(tokens, np.zeros(len(tokens), bool)), np.random.default_rng(seed))


def test_masked_rows_show_what_was_chosen_and_what_is_seen():
    row = make_example("masked")
    row.weights[:] = 0
    row.inputs[:] = row.targets
    row.weights[[2, 3, 6, 8]] = 1
    row.inputs[[2, 3]], row.inputs[6] = RICH.mask_id, ord("x")
    text = preview.render_masked(row, RICH)
    assert text.plain.startswith("<bos>T‹he› k‹i→x›n‹g=› is dead.") or text.plain.startswith(
        "<cls>T‹he› k‹i→x›n‹g=› is dead.")
    assert text.plain.endswith("¶")
    assert {style for _, style in styles(text)} == {
        f"{preview.COLOURS[0]} {kind}".strip()
        for kind in ("", preview.MASKED, preview.RANDOM, preview.KEPT)
    }


def test_both_sides_of_a_pair_are_shown_and_spans_have_their_sentinels_colour():
    text = preview.render_pair(make_example("span_corruption"), RICH)
    encoder, decoder = text.plain.split("decoder learns\n")
    assert encoder.startswith("encoder reads\n") and encoder.endswith("¶\n")
    assert decoder.startswith("<extra_id_0>") and decoder.endswith("¶")
    whole, spans = encoder.removeprefix("encoder reads\n")[:-2], decoder[:-1]
    for number in range(decoder.count("<extra_id_")):
        name = f"<extra_id_{number}>"
        span = spans.split(name)[1].split("<extra_id_")[0]
        whole = whole.replace(name, span)
        assert (span[0], preview.COLOURS[number % 6]) in styles(text)
    assert (TEXT.decode() * 4).startswith(whole)


def test_masks_and_padding_of_a_denoising_row():
    text = preview.render_pair(make_example("denoising"), RICH).plain
    assert "<mask>" in text.split("decoder learns")[0] and " of padding " in text
    assert TEXT.decode() in text.split("decoder learns")[1]


def test_a_prefix_ends_with_a_mark():
    row = make_example("prefix_lm")
    split = int(row.prefix.sum())
    plain = preview.render_row(row, RICH).plain
    assert split and plain.index(preview.PREFIX_END) == split
    assert plain.replace("␣", " ").replace(preview.PREFIX_END, "") == (TEXT.decode() * 4)[:81]


def test_a_legend_speaks_of_colours_only_where_they_are_seen():
    legends = {**preview.LEGENDS, **preview.preview_rows.LEGENDS}
    assert len(legends) == 6
    for name, words in legends.items():
        shown = preview._legend(words, True)
        assert shown.startswith(words)
        assert ("␣ is a space" in shown) == ("Struck" in words)
        plain = preview._legend(words, False)
        assert not {"colour", "Each", "Struck"} & set(plain.replace(",", " ").split()), plain
        assert ("⏎ a line end." in plain) == (name != "token_classification")
        assert "  " not in plain


@pytest.mark.parametrize("objective", [name for name in objectives() if not trains_on_rows(name)])
def test_every_objective_can_be_previewed(tmp_path_factory, objective, capsys):
    folder = tmp_path_factory.getbasetemp() / "rich"
    if not folder.exists():
        (folder.parent / "rich.txt").write_text("\n".join(sentences(60, 1)) + "\n")
        run_prepare(folder, [folder.parent / "rich.txt"], tokenizer__kind="byte",
                    input__document="line", tokenizer__mask=True, tokenizer__sentinels=20)
    config = DataConfig(48, objective=objective, mixture={"a": SourceConfig(str(folder))})
    stats = preview.preview(config, 3, step=5, rows=2, display=quiet())
    out = capsys.readouterr().out
    assert len(stats) == 2 and all(0 < row.trained <= 1 for row in stats)
    assert ("encoder reads" in out) == (objective in ("span_corruption", "denoising"))
