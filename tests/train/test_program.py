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


class Compiled:
    """As much of a compiled step as `auto` looks at."""

    def __init__(self, total, host=0):
        self.total_allocation_bytes, self.host_temp_size_in_bytes = total, host

    def memory_analysis(self):
        return self


KEPT = {  # bytes by policy and microbatches, made up: the more is kept, the more is allocated
    "mlp": 8e9, "projections": 5e9, "kv": 4e9, "attention": 3e9, "kv_input_offload": 2.5e9,
    "attention_input_offload": 2e9, "full": 2.1e9, "attention_offload": 1.5e9,
    "full_input_offload": 1.4e9,
}


@pytest.fixture
def made_up(monkeypatch):
    def compile_step(config, *_):
        train = config.train
        if train.remat == "none":
            raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")
        total = 0.5e9 + KEPT[train.remat] / train.grad_accumulation
        if config.optimizer.placement == "host":
            total -= 0.4e9
        return Compiled(total, KEPT[train.remat] if "offload" in train.remat else 0)

    monkeypatch.setattr(program, "compile_step", compile_step)


def test_auto_takes_the_least_recomputation_that_fits(config, made_up):
    said = []
    assert chosen(config, 5.1e9, said) == "kv"  # projections leave less than 5 % free
    assert said[1:] == [
        "train.remat=none: does not fit", "train.remat=mlp: 8.50 of 5.10 GB",
        "train.remat=projections: 5.50 of 5.10 GB", "train.remat=kv: 4.50 of 5.10 GB",
    ]
    for field in ("train.remat", "train.grad_accumulation", "order of sums", "optimizer.placement"):
        assert field in said[0]


@pytest.mark.parametrize(("room", "host_room", "came_to"), [
    (3.3e9, 1e12, ("kv_input_offload", 1, "device")),
    (3.3e9, 1e9, ("full", 1, "device")),  # the host has no room for what else would fit
    (2.05e9, 1e12, ("full_input_offload", 1, "device")),
    (2.05e9, 1e9, ("attention", 4, "device")),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in (
        (0.66e9, 1e12, ("attention_offload", 4, "host")),
        (1.4e9, 1e12, ("attention_offload", 2, "device")),
        (0.85e9, 1e12, ("attention_offload", 8, "device")),
    )),
])
def test_auto_goes_on_to_the_host_then_to_microbatches(config, made_up, room, host_room, came_to):
    said = []
    found = program.with_remat(
        config, config.model, single_device(), (32, 0), 0, room, said.append, host_room
    )
    train = found.train
    assert (train.remat, train.grad_accumulation, found.optimizer.placement) == came_to, said
    again = program.with_remat(
        config, config.model, single_device(), (32, 0), 0, room, said.append, host_room
    )
    assert again == found


def test_auto_takes_what_fits_on_every_host(config, made_up, monkeypatch):
    """The others' answers, made up here: kv does not fit one of them."""
    answers = [True, True, True, False]
    monkeypatch.setattr(
        program, "on_all_hosts", lambda fits: (not answers or answers.pop(0)) and fits
    )
    assert chosen(config, 5.1e9, []) == "attention" and not answers


def test_auto_that_finds_nothing(config, made_up):
    said = []
    with pytest.raises(UserError, match=r"does not fit with any policy.*global_batch_size"):
        chosen(config, 1e8, said)
    last = "train.remat=full_input_offload train.grad_accumulation=8 optimizer.placement=host"
    assert said[-1].startswith(last)


def test_auto_leaves_the_batch_and_a_place_on_the_host_alone(config):
    values = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, placement="host"),
        train=dataclasses.replace(config.train, grad_accumulation=2),
    )
    found = program.candidates(values, single_device())
    assert {one.optimizer.placement for one in found} == {"host"}
    assert {one.train.grad_accumulation for one in found} == {2, 4, 8}  # of 8 rows
    assert all(one.data == config.data for one in found)


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
    assert len(said) == 2
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
