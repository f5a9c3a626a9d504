"""The step as a program: remat policies chosen by what the compiler says, the batch as it will be.
"""

import dataclasses

import jax
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import single_device
from jaxllm.data.loader import TrainingData
from jaxllm.train import program
from jaxllm.train.config import resolve_config
from jaxllm.train.loop import train
from tests.train.conftest import make_recipe


@pytest.fixture
def config(corpus):
    values = make_recipe(corpus)
    values.train.remat = "auto"
    return resolve_config(values)


def chosen(config, room, said):
    return program.with_remat(
        config, config.model, single_device(), (32, 0), 0, room, said.append
    ).train.remat


def test_auto_takes_the_least_recomputation_that_fits(config, monkeypatch):
    """The compiler's figures, made up here: the more is kept, the more is allocated."""
    kept = {"none": 9e9, "mlp": 8e9, "projections": 5e9, "kv": 4e9, "attention": 3e9, "full": 2e9}

    class Compiled:
        def __init__(self, total):
            self.total_allocation_bytes = total

        def memory_analysis(self):
            return self

    def compile_step(config, *_):
        if config.train.remat == "none":
            raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")
        return Compiled(kept[config.train.remat])

    monkeypatch.setattr(program, "compile_step", compile_step)
    said = []
    assert chosen(config, 5.1e9, said) == "kv"  # projections leave less than 5 % free
    assert said == [
        "train.remat=none: does not fit", "train.remat=mlp: 8.00 of 5.10 GB",
        "train.remat=projections: 5.00 of 5.10 GB", "train.remat=kv: 4.00 of 5.10 GB",
    ]
    with pytest.raises(UserError, match=r"does not fit with any policy.*global_batch_size"):
        chosen(config, 1e9, said)


@pytest.mark.slow
def test_auto_with_the_real_compiler(config):
    setup = program.setup_of(
        dataclasses.replace(config, train=dataclasses.replace(config.train, remat="full")),
        config.model, single_device(),
    )
    batch = program.example_batch(config.data, (32, 0))
    batch = jax.tree.map(lambda x: np.repeat(x, 8, 0), batch)
    options = program.loss_options(config, config.model, 0)
    compiled = program.compile_step(config, setup, options, program.abstract_state(setup), batch)
    least, said = program.allocated(compiled.memory_analysis()), []
    assert chosen(config, 100 * least, said) == "none"
    assert len(said) == 1
    with pytest.raises(UserError, match="does not fit"):
        chosen(config, least / 2, said)
    assert chosen(config, None, said) == "none"  # a device that does not say what it has


def test_the_example_batch_is_what_the_data_give(config):
    data = TrainingData(config.data, 0)
    ours, theirs = program.example_batch(config.data, data.lengths), data.batch_rows(0, [0])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_a_run_says_what_auto_came_to(config, tmp_path):
    import json

    from jaxllm.core.display import make_display

    short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1))
    train(short, {}, str(tmp_path), make_display())
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"]["train"]["remat"] == "none"
