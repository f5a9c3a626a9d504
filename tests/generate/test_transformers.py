"""The same tokens as transformers' `generate`: greedy and beam search, every kind of family.

tests/generate/make_fixtures.py makes the folders that this reads.
"""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.generate.beams import BeamSearch
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import TokenRules
from jaxllm.models.hf.importer import import_params, read_model_config
from jaxllm.models.load import Model
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract

FOLDERS = sorted((Path(__file__).parent / "fixtures").iterdir())


class Numbers(Tokenizer):
    """A text is its ids, written out."""

    kind, vocab_size, eos_id, pad_id, files = "numbers", 43, 2, 3, {}
    sentinel_ids = (42,)  # the end of text stands after what an encoder reads

    def encode(self, text):
        return [int(word) for word in text.split()]

    def encode_places(self, texts):
        found = [list(re.finditer(r"\d+", text)) for text in texts]
        return [([int(w[0]) for w in words], [w.end() - 1 for w in words]) for words in found]

    def decode(self, ids):
        return " ".join(map(str, ids))


def folders():
    """One of each kind of tower and of positions by default; the others take long."""
    for folder in FOLDERS:
        marks = {"gpt2": [], "t5": [pytest.mark.thorough]}.get(folder.name, [pytest.mark.slow])
        yield pytest.param(folder, id=folder.name, marks=marks)


@pytest.fixture(scope="module", params=list(folders()))
def case(request, compute):
    config = read_model_config(request.param)
    structure, specs = abstract(partial(Transformer, config=config, compute=compute))
    params = import_params(request.param, config, specs, compute)
    expected = json.loads((request.param / "expected.json").read_text())
    prompts = [" ".join(map(str, ids)) for ids in expected.pop("prompts")]
    return Model(config, compute, structure, params, 0), prompts, expected


def test_writes_the_same_tokens(case):
    model, prompts, expected = case
    for setting, case in expected.items():
        how = case["how"]
        eos = how.get("eos_token_id", [2])
        rules = TokenRules(
            tuple(eos), how.get("forced_bos_token_id"), how.get("forced_eos_token_id")
        )
        beams = None
        if "num_beams" in how:
            beams = BeamSearch(
                how["num_beams"], how["length_penalty"], how.get("early_stopping", False)
            )
        completions = generate(
            model, Numbers(), prompts, max_new_tokens=how["max_new_tokens"], rules=rules,
            sampling=Sampling(temperature=0), beams=beams,
        )
        assert [list(c.token_ids) for c in completions] == case["texts"], setting
