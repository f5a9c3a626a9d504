"""Workloads and recipes that several tests of plans use."""

from jaxllm.models.config import preset
from jaxllm.plan.flops import Lengths
from jaxllm.plan.shapes import model_shape
from jaxllm.plan.workload import Workload
from jaxllm.train.config import default_config, resolve_config


def workload(name="llama3.1_8b", rows=64, length=8192, **changes):
    values = {
        "accumulation": 1, "steps": 1000, "optimizer": "adamw", "moment_bytes": 4,
        "param_bytes": 4, "compute_bytes": 2, "attention": "auto", **changes,
    }
    return Workload(model_shape(preset(name).completed()), Lengths(length), rows, **values)


def small_tpu_recipe():
    """Two layers with splash attention."""
    values = default_config()
    values.model.preset = "llama_21m"
    values.model.layers, values.model.vocab_size = 2, 1024
    values.model.attention.heads = values.model.attention.kv_heads = 2
    values.model.attention.head_dim = 128
    values.data.sequence_length, values.data.global_batch_size = 256, 8
    values.train.remat = "full"
    return resolve_config(values)
