"""The place of each token's last character, against the tokens' own texts."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data.rows.render import trained_tokens

KINDS = ("byte", "char", "bpe", "unigram", "hf")
TEXTS = ["", " ", "Hello, world!", "  two  spaces ", "a\n\nb\t", "café 漢 😀é", "x" * 50]


def random_texts(seed):
    rng = random.Random(seed)
    return ["".join(rng.choices("abc theé漢😀 \n.", k=rng.randint(1, 60))) for _ in range(100)]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_encode_and_places_tile_the_text(tokenizer, kind):
    """Decoding the tokens up to a place gives the text up to there, so no token is misplaced."""
    made = tokenizer(kind)
    texts = TEXTS + random_texts(kind)
    for text, (ids, places) in zip(texts, made.encode_places(texts), strict=True):
        assert ids == made.encode(text)
        assert len(places) == len(ids) and places == sorted(places)
        if not ids:
            continue
        assert places[-1] == len(text) - 1
        for number in range(1, len(ids) + 1):
            done = number == len(ids) or places[number] != places[number - 1]
            begun = text[: places[number - 1] + 1]
            if done:  # else more of the same character follows
                assert made.decode(ids[:number]) == begun
            else:
                assert begun.startswith(made.decode(ids[:number]).rstrip("\ufffd"))


def test_offsets_that_a_post_processor_trims_count_their_spaces(tokenizer):
    """A token of nothing but a space has the place of the space, though transformers trims it."""
    made = tokenizer("hf")
    ids, places = made.encode_places(["to  be"])[0]
    assert [made.token_text(i) for i in ids[-2:]] == [" ", " be"] and places[-2:] == [2, 5]


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram"])
def test_special_tokens_that_a_template_names_are_cut_out(tokenizer, kind):
    made = tokenizer(kind)
    end = made.token_text(made.eos_id)
    text = f"be{end}né 😀{end}"
    ids, places = made.encode_chat([text])[0]
    assert ids == [*made.encode("be"), made.eos_id, *made.encode("né 😀"), made.eos_id]
    assert places[len(made.encode("be"))] == 2 + len(end) - 1 and places[-1] == len(text) - 1
    assert made.eos_id not in made.encode(text)  # in other text it is text


def test_a_hugging_face_tokenizer_knows_special_tokens_in_any_text(tokenizer):
    made = tokenizer("hf")
    assert made.encode_chat(["be<|im_end|>"]) == made.encode_places(["be<|im_end|>"])
    assert made.encode("be<|im_end|>")[-1] == made.encode("<|im_end|>")[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 60), st.data())
def test_a_token_is_trained_on_if_its_last_character_is(sizes, cut, data):
    ends = np.cumsum(sizes)
    length = int(ends[-1])
    start = min(cut, length - 1)
    stop = data.draw(st.integers(start + 1, length))
    inside = set(range(start, stop))
    found = trained_tokens([(start, stop)], ends - 1)
    assert found.tolist() == [int(end) - 1 in inside for end in ends]


def test_several_spans():
    assert trained_tokens([(1, 2), (2, 4), (6, 7)], [0, 1, 3, 4, 5, 6, 7]).tolist() == [
        False, True, True, False, False, True, False]
    assert trained_tokens([], [0, 1]).tolist() == [False, False]
