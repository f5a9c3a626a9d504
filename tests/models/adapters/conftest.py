"""Bases on disk and runs with adapters, written as a run writes them."""

import dataclasses
import json

import jax
import pytest

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import to_dict
from jaxllm.core.display import make_display
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.config import DataConfig
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.config import presets
from jaxllm.models.convert import convert
from jaxllm.models.load import find_model

ROWS = 64  # of the embedding


@pytest.fixture(scope="session")
def model_of():
    """`model_of("llama", quantization="nf4", r=4)`: a debug model with an adapter."""
    def make(family, quantization="none", head=None, **lora):
        config = dataclasses.replace(presets()[f"{family}_debug"], vocab_size=ROWS)
        if head:
            config = dataclasses.replace(config, head=head)
        adapter = AdapterConfig()
        if lora:
            adapter = AdapterConfig("lora", lora=LoraConfig(**lora), quantization=quantization)
        return dataclasses.replace(config, adapter=adapter).completed()

    return make


@pytest.fixture(scope="session")
def write_run():
    """`write_run(folder, config, params, step, init_from)`: a run directory with a checkpoint."""
    def write(root, config, params, step=3, init_from="", meta=None):
        run = RunDirectory(root)
        run.create()
        sections = {"model": to_dict(config), "data": to_dict(DataConfig(sequence_length=16)),
                    "train": {"init_from": init_from}}
        run.config.write_text(json.dumps({"config": sections}))
        checkpoints = Checkpoints(run.checkpoints, keep=5)
        checkpoints.save(step, {"params": params}, meta or {}, None)
        checkpoints.close()
        return run

    return write


@pytest.fixture(scope="session")
def bases(tmp_path_factory, model_of, write_run, build, compute):
    """`bases("llama")`: a run with drawn parameters, and the same as a Hugging Face folder."""
    root, made = tmp_path_factory.mktemp("bases"), {}

    def base(family):
        if family not in made:
            config = model_of(family)
            params = jax.tree.map(
                lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype) / 8,
                build(config, compute)[1],
            )
            write_run(root / family, config, params)
            with make_display() as display:
                convert(str(root / family), str(root / f"{family}_hf"), display, check=False)
            made[family] = find_model(str(root / family)), find_model(str(root / f"{family}_hf"))
        return made[family]

    return base
