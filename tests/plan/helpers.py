"""Workloads of presets, as the tests and the tables of the docs use them."""

from jaxllm.models.config import preset
from jaxllm.plan.flops import Lengths
from jaxllm.plan.shapes import model_shape
from jaxllm.plan.workload import Workload


def workload(name="llama3.1_8b", rows=64, length=8192, **changes):
    values = {
        "accumulation": 1, "steps": 1000, "optimizer": "adamw", "moment_bytes": 4,
        "param_bytes": 4, "compute_bytes": 2, "attention": "auto", **changes,
    }
    return Workload(model_shape(preset(name).completed()), Lengths(length), rows, **values)
