"""A tiny prepared corpus and a recipe that trains on it in seconds."""

import pytest

from jaxllm.core.config import to_config_dict
from jaxllm.core.display import make_display
from jaxllm.data.config import SourceConfig
from jaxllm.data.prepare import config as prepare_config
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.train.config import default_config

TEXT = "".join(f"Line {i} says that {i} and {i + 1} make {2 * i + 1}.\n\n" for i in range(300))


def prepare_text(folder, text, kind="byte"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text)
    values = prepare_config.default_config()
    values.input.paths = (str(folder / "text.txt"),)
    values.input.document = "paragraph"
    values.tokenizer.kind = kind
    values.split.validation_share = 0.1
    prepare(prepare_config.resolve_config(values), str(folder / "data"), make_display())
    return folder / "data"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return prepare_text(tmp_path_factory.mktemp("corpus"), TEXT)


def make_recipe(corpus):
    config = default_config()
    config.model.preset = "llama_debug"
    config.model.width = 32
    config.model.vocab_size = 264  # the byte tokenizer's 259, rounded up for a tensor axis
    config.model.mlp.width = 48
    config.data.mixture.text = to_config_dict(SourceConfig(str(corpus)))
    config.data.sequence_length = 32
    config.data.global_batch_size = 8
    config.optimizer.learning_rate = 1e-2
    config.train.steps = 8
    config.train.log_every = 1
    config.eval.batches = 2
    return config
