"""Tokenizers for rows: a Hugging Face folder with ChatML's tokens, and the kinds trained here."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import processors as post

from jaxllm.data.tokenizers import byte, char, load
from jaxllm.data.tokenizers import sentencepiece as pieces
from jaxllm.samples import sample

BEGIN, END = "<|begin|>", "<|end|>"


@pytest.fixture(scope="session")
def text():
    return (sample("tinyshakespeare") / "input.txt").read_text()[:40_000]


@pytest.fixture(scope="session")
def hf(tmp_path_factory, text):
    """Byte-level BPE as Llama 3's: <|begin|> before a text; its post-processor trims offsets."""
    folder = tmp_path_factory.mktemp("hf")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(text.split("\n\n"), trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END, "<|im_start|>", "<|im_end|>"],
    ))
    made.post_processor = post.Sequence([
        post.ByteLevel(trim_offsets=True),
        post.TemplateProcessing(single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B",
                                special_tokens=[(BEGIN, made.token_to_id(BEGIN))]),
    ])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END,
    }))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory, text, hf):
    """A tokenizer folder of each kind."""
    root = tmp_path_factory.mktemp("tokenizers")
    letters = "".join(sorted({*text, *"é漢😀<>_|[]#{}\"", *map(chr, range(32, 127)), "\n", "\t"}))
    made = {
        "byte": byte.ByteTokenizer(), "char": char.CharTokenizer(letters, end_of_text=True),
        "bpe": _pieces(text, "bpe"), "unigram": _pieces(text, "unigram"),
    }
    for name, tokenizer in made.items():
        tokenizer.save(root / name)
    return {**{name: root / name for name in made}, "hf": hf}


@pytest.fixture(scope="session")
def tokenizer(folders):
    """`tokenizer(kind)`."""
    return lambda kind: load(folders[kind])


def _pieces(text, kind):
    return pieces.train(text.split("\n\n"), vocab_size=500, model_type=kind,
                        character_coverage=1.0, user_symbols=())


@pytest.fixture
def write(tmp_path):
    """`write(name, rows)` writes JSON lines; gives the file's name."""

    def write(rows, name="rows.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return str(file)

    return write
