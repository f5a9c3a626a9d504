"""Instruction tuning equals transformers' on the same model, rows and masks; packed, unpacked."""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jaxllm.data.batch import Batch, stack
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.loader import TrainingData
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.models.load import find_model
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import init_state, make_setup
from jaxllm.train.step import jit_eval_step, jit_train_step

STEPS, BATCH, LENGTH, RATE = 20, 4, 160, 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama as transformers writes it, a tokenizer, and rows to tune it on."""
    root = tmp_path_factory.mktemp("sft")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).eval().save_pretrained(root / "model")
    ByteTokenizer().save(root / "tokenizer")
    rows = [
        {"prompt": f"What is {i} and {i + 1}? ", "completion": f"It is {2 * i + 1}." * (1 + i % 3)}
        for i in range(60)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def data_of(folder, **fields):
    source = SourceConfig(str(folder / "rows.jsonl"), validation_share=0.0)
    config = DataConfig(LENGTH, BATCH, "sft", mixture={"rows": source}, **fields)
    return TrainingData(config, 0, tokenizer=str(folder / "tokenizer"))


def setup_of(folder, compute):
    saved = find_model(str(folder / "model"))
    optimizer = OptimizerConfig(
        learning_rate=RATE, schedule="constant", weight_decay=0.0, b2=0.999, max_grad_norm=1.0,
    )
    setup = make_setup(saved.config, compute, optimizer, STEPS)
    return setup, saved.load(compute, pytest.fail).params


def test_losses_equal_transformers(folder):
    data = data_of(folder, packing=False)
    setup, params = setup_of(folder, make_compute())
    state, step = init_state(setup, 0, params), jit_train_step(setup, LossOptions(), 1, 0)
    model = LlamaForCausalLM.from_pretrained(folder / "model").train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
    )
    ours, theirs = [], []
    for index in range(STEPS):
        batch = data.batch_rows(index, range(BATCH))
        state, metrics = step(state, batch)
        ours.append(float(metrics["nll"]))
        # their labels are the inputs', shifted inside the model: one more place than ours
        ids = np.concatenate([batch.inputs, batch.targets[:, -1:]], 1)
        labels = np.full(ids.shape, -100)
        labels[:, 1:] = np.where(batch.weights > 0, batch.targets, -100)
        mask = np.pad(batch.segment_ids > 0, ((0, 0), (0, 1)))
        for row, last in enumerate((batch.segment_ids > 0).sum(1)):
            ids[row, last], mask[row, last] = batch.targets[row, last - 1], True
        loss = model(
            torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.9 * ours[0]


def test_packed_equals_unpacked(folder):
    packed, alone = data_of(folder), data_of(folder, packing=False)
    setup, params = setup_of(folder, make_compute())
    step = jit_eval_step(setup, LossOptions())

    def total(data):
        rows = [data.example(index) for index in range(data.epochs["rows"])]
        padding = Batch(*(x if x is None else np.zeros_like(x) for x in rows[0]))
        rows += [padding] * (-len(rows) % BATCH)
        sums = [
            step(params, stack(rows[start : start + BATCH]))
            for start in range(0, len(rows), BATCH)
        ]
        return jax.tree.map(lambda *x: float(sum(x)), *sums)

    together, apart = total(packed), total(alone)
    assert packed.epochs["rows"] < 0.6 * alone.epochs["rows"] == 0.6 * 60
    assert together.weight == apart.weight
    np.testing.assert_allclose(together.nll, apart.nll, rtol=1e-5)
