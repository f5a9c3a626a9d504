"""A tiny model of each kind learns its objective on the bundled text, past what counts can do.

The baseline knows how often each target occurs, and nothing of what stands around it.
"""

import numpy as np
import pytest

from jaxllm.core.config import to_config_dict
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.data.config import SourceConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.prepare import config as prepare_config
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.samples import sample
from jaxllm.train.config import default_config, resolve_config
from jaxllm.train.loop import train

# objective: preset, learning rate, steps, nats below the baseline
CASES = {
    "masked": ("bert_debug", 3e-3, 250, 0.2),
    "span_corruption": ("t5_debug", 5e-3, 120, 0.4),
    "denoising": ("bart_debug", 3e-3, 300, 0.1),
    "prefix_lm": ("llama_debug", 5e-3, 150, 0.6),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shakespeare")
    text = (sample("tinyshakespeare") / "input.txt").read_text()
    (folder / "text.txt").write_text(text[:300_000])
    values = prepare_config.default_config()
    values.input.paths = (str(folder / "text.txt"),)
    values.input.document = "paragraph"
    values.tokenizer.update(kind="byte", mask=True, sentinels=24)
    prepare(prepare_config.resolve_config(values), str(folder / "data"), make_display())
    return folder / "data"


def recipe(corpus, objective):
    preset, rate, steps, _ = CASES[objective]
    config = default_config()
    config.model.preset = preset
    config.model.layers = 1
    config.model.bidirectional_prefix = objective == "prefix_lm"
    config.data.mixture.text = to_config_dict(SourceConfig(str(corpus)))
    config.data.objective = objective
    config.data.sequence_length = 64
    config.data.global_batch_size = 16
    config.optimizer.update(learning_rate=rate, warmup_steps=20)
    config.train.update(steps=steps, log_every=50)
    config.eval.batches = 8
    return resolve_config(config)


def baseline(config):
    """Entropy in nats of the targets' frequencies, and how often the most frequent one is right."""
    data = TrainingData(config.data, config.seed)
    batch = data.batch_rows(0, range(500))
    counts = np.bincount(batch.targets[batch.weights > 0])
    shares = counts[counts > 0] / counts.sum()
    return float(-np.sum(shares * np.log(shares))), float(shares.max())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["span_corruption", "masked", "denoising", "prefix_lm"])
def test_learns_more_than_how_often_tokens_occur(corpus, tmp_path, objective):
    config = recipe(corpus, objective)
    record = train(config, {}, str(tmp_path), make_display())[-1]
    entropy, share = baseline(config)
    assert record["loss"] < entropy - CASES[objective][3]
    assert record["accuracy"] > 1.2 * share
    assert record["bits_per_byte"] is None  # the loss is not that of the whole text


def test_targets_longer_than_the_learned_positions_are_refused(corpus, tmp_path):
    values = default_config()
    values.model.preset = "bart_debug"
    values.data.mixture.text = to_config_dict(SourceConfig(str(corpus)))
    values.data.update(objective="span_corruption", sequence_length=256)
    values.data.spans.update(density=0.8, mean_length=30.0)
    with pytest.raises(UserError, match=r"length of the targets=\d+ is longer .* 512 learned"):
        train(resolve_config(values), {}, str(tmp_path), make_display())
