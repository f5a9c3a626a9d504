"""Perturbations: pure in (text, rng), of the asked strength, never of what is to be answered."""

import subprocess
import sys

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.perturb import keyboard, names, ocr, perturb, perturb_text, synonyms

TEXT = (
    "The quick buyer bought a large house, but the price was 1580 dollars; Mein Haus ist groß. "
) * 20


def rng(seed=0):
    return np.random.default_rng(seed)


TEXTS = [name for name in names() if name != "options"]


def test_they_are_found_by_name():
    assert names() == [
        "case", "drop", "drop_words", "insert", "keyboard", "ocr", "options", "swap", "synonyms",
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_a_function_of_text_and_generator(name):
    once = perturb_text([name], 0.3, TEXT, rng(1))
    assert once == perturb_text([name], 0.3, TEXT, rng(1)) != TEXT
    assert once != perturb_text([name], 0.3, TEXT, rng(2))
    assert perturb_text([name], 0.0, TEXT, rng(1)) == TEXT
    assert perturb_text([name], 0.5, "", rng(1)) == ""
    assert perturb_text([name], 1.0, "…!? \n", rng(1)) is not None


@pytest.mark.parametrize(("name", "rate"), [("drop", 0.1), ("insert", 0.1)])
def test_strength_is_the_share_that_is_touched(name, rate):
    letters = sum(c.isalnum() for c in TEXT)
    changed = perturb_text([name], rate, TEXT, rng())
    assert abs(len(changed) - len(TEXT)) / letters == pytest.approx(rate, abs=0.03)


def test_swaps_keep_the_letters_of_every_word():
    changed = perturb_text(["swap"], 0.3, TEXT, rng())
    for one, other in zip(TEXT.split(), changed.split(), strict=True):
        assert sorted(one) == sorted(other)


def test_keyboard_neighbours_are_mutual_and_near():
    assert set(keyboard.NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(keyboard.NEIGHBOURS["q"]) == set("wa12")
    for key, near in keyboard.NEIGHBOURS.items():
        assert near and all(key in keyboard.NEIGHBOURS[other] for other in near), key
    changed = perturb_text(["keyboard"], 1.0, "Gg ß", rng())
    assert changed[0].lower() in "fhtyvb" and changed[0].isupper() and changed[3] == "ß"


def test_ocr_reads_what_looks_alike():
    assert perturb_text(["ocr"], 1.0, "0", rng()) in "OD"
    assert perturb_text(["ocr"], 1.0, "m", rng()) == "rn"
    assert perturb_text(["ocr"], 1.0, "rn", rng()) == "m"
    assert all(other in ocr.TABLE for others in ocr.TABLE.values() for other in others)


def test_synonyms_keep_the_case_and_have_no_word_alone():
    assert all(synonyms.TABLE.values())
    changed = perturb_text(["synonyms"], 1.0, "Big BIG big xyzzy.", rng()).split()
    assert changed[0].istitle() and changed[1].isupper() and changed[2].islower()
    assert all(word.lower() in ("large", "huge") for word in changed[:3])
    assert changed[3] == "xyzzy."


def test_words_are_dropped_and_one_stays():
    text = "one two three four"
    assert perturb_text(["drop_words"], 1.0, text, rng()).strip() in text.split()
    assert perturb_text(["drop_words"], 1.0, "alone", rng()) == "alone"


@pytest.mark.parametrize(("answer", "of"), [
    (1, lambda row: row["options"][row["answer"]]),
    ("B", lambda row: row["options"]["ABCD".index(row["answer"])]),
    ("b", lambda row: row["options"]["abcd".index(row["answer"])]),
    ("two", lambda row: row["answer"]),
])
def test_the_answer_moves_with_its_option(answer, of):
    row = {"question": "?", "options": ["one", "two", "three", "four"], "answer": answer}
    orders = set()
    for seed in range(8):
        changed = perturb(["options"], 1.0, row, rng(seed))
        assert of(changed) == "two" and sorted(changed["options"]) == sorted(row["options"])
        orders.add(tuple(changed["options"]))
    assert len(orders) > 3 and row["options"][0] == "one"
    assert perturb(["options"], 1.0, {"text": "no options"}, rng()) == {"text": "no options"}


def test_only_what_is_read_is_changed():
    messages = [
        {"role": "system", "content": TEXT}, {"role": "user", "content": TEXT},
        {"role": "assistant", "content": TEXT},
    ]
    rows = [
        ({"text": TEXT, "label": TEXT}, "text"), ({"prompt": TEXT, "completion": TEXT}, "prompt"),
        ({"source": TEXT, "target": TEXT}, "source"),
    ]
    for row, read in rows:
        changed = perturb(["keyboard", "swap"], 0.2, row, rng())
        assert [name for name in row if changed[name] != row[name]] == [read]
    changed = perturb(["drop"], 0.2, {"messages": messages}, rng())["messages"]
    assert [m["content"] == TEXT for m in changed] == [True, False, True]


def test_conversations_of_sharegpt_are_changed_where_somebody_asks():
    names = ["system", "human", "gpt", "observation", "function_call"]
    turns = [{"from": name, "value": TEXT} for name in names]
    changed = perturb(["drop"], 0.2, {"conversations": turns}, rng())["conversations"]
    assert [turn["value"] == TEXT for turn in changed] == [True, False, True, False, True]
    assert [turn["from"] for turn in changed] == names
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    changed = perturb(["drop"], 0.2, {"conversations": turns}, rng())["conversations"]
    assert [turn["content"] == TEXT for turn in changed] == [False, True]


def test_words_with_tags_stay_one_word_each():
    tokens = TEXT.split()
    row = {"tokens": tokens, "tags": ["O"] * len(tokens)}
    changed = perturb(["drop", "drop_words", "keyboard", "insert"], 0.5, row, rng())
    assert len(changed["tokens"]) == len(tokens) and changed["tokens"] != tokens
    assert all(len(word.split()) == 1 for word in changed["tokens"])


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'swap'"):
        perturb(["swp"], 0.1, {}, rng())
    with pytest.raises(UserError, match="share"):
        perturb_text(["swap"], 1.5, "a", rng())


def test_jax_is_not_loaded():
    program = (
        "import sys, numpy as np; from jaxllm.data.perturb import names, perturb_text\n"
        "for n in names(): perturb_text([n], 0.5, 'some text', np.random.default_rng(0))\n"
        "print('jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
