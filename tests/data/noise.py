"""What the tests of objectives share: objectives over the byte tokenizer, and text for them."""

import math

import numpy as np

from jaxllm.data.batch import Window
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives import make_objective
from jaxllm.data.tokenizers.byte import ByteTokenizer

from .corpora import sentences

TOKENIZER = ByteTokenizer(mask=True, sentinels=100)
EOS, BOS, PAD, MASK = 257, 256, 258, 259


def make(objective, length=128, tokenizer=TOKENIZER, start=-1, **fields):
    config = DataConfig(sequence_length=length, objective=objective, **fields)
    return make_objective(config, lambda: tokenizer, start)


def window(count, seed=0, documents=True):
    """The first tokens of a stream of documents that end with the end of text."""
    tokens, starts = [], []
    for text in sentences(count // 20 + 40, seed):
        text = text.replace(" while ", ". ")
        ids = [*text.encode(), *([EOS] if documents else [])]
        tokens += ids
        starts += [documents and place == 0 for place in range(len(ids))]
    assert len(tokens) >= count
    return Window(np.array(tokens[:count], np.int32), np.array(starts[:count]))


def rows(objective, count, documents=True):
    """(window, example) of consecutive windows."""
    size = objective.raw_length
    whole = window(size * count, documents=documents)
    for index in range(count):
        part = slice(index * size, (index + 1) * size)
        piece = Window(whole.tokens[part], whole.starts[part])
        yield piece, objective.example(piece, np.random.default_rng((7, index)))


def within(count, total, share, sigmas=3.0):
    """Whether a binomial count is as far from its mean as chance allows."""
    return abs(count - total * share) <= sigmas * math.sqrt(total * share * (1 - share)) + 1
