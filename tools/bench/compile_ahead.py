"""Compiles the real training step for chips that are not here, and prints what it needs.

Needs the `tpu` extra, no TPU:
  python tools/bench/compile_ahead.py --topology=v6e:2x2 --preset=llama3.2_1b --batch=4

Prints seconds to lower and compile, bytes per device by kind from the compiler's memory analysis,
and the attention kernel and collectives found in the compiled program. Nothing is executed: these
are compiled figures, not measured ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time
from collections import Counter

os.environ.update(
    JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
)

import jax
import numpy as np
from jax.experimental import topologies

from jaxllm.core.config import MeshConfig
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.data.batch import Batch
from jaxllm.models.config import preset
from jaxllm.models.parameters import param_count
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.feed import batch_shapes
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import make_setup
from jaxllm.train.step import jit_train_step

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


def main() -> None:
    """Compiles one case."""
    options = arguments()
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=options.topology
    ).devices
    mesh = MeshConfig(fsdp=-1, tensor=options.tensor)
    sharding = Sharding(make_mesh(mesh, devices))
    model = preset(options.preset)
    model = dataclasses.replace(model, layers=options.layers or model.layers).completed()
    compute = make_compute(sharding, remat=options.remat, attention=options.attention)
    setup = make_setup(model, compute, OptimizerConfig(), steps=1000)
    rows = np.zeros((1, options.length), np.int32)
    example = Batch(rows, rows, rows.astype(np.float32), rows, rows)
    batch = batch_shapes(example, sharding, options.batch * len(devices))
    state = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        setup.shapes, setup.shardings,
    )
    begin = time.perf_counter()
    lowered = jit_train_step(setup, LossOptions(), 1, seed=0).lower(state, batch)
    middle = time.perf_counter()
    compiled = lowered.compile()
    print(
        f"jax {jax.__version__}; {options.topology}: {len(devices)} devices, mesh "
        f"{ {k: v for k, v in sharding.mesh.shape.items() if v > 1} }; {options.preset}, "
        f"{model.layers} layers, {param_count(setup.specs):,} parameters; batch {options.batch} "
        f"per device x {options.length}; remat {options.remat}"
    )
    print(f"lowered in {middle - begin:.1f} s, compiled in {time.perf_counter() - middle:.1f} s")
    memory = compiled.memory_analysis()
    for name in ("argument", "temp", "output", "alias", "generated_code"):
        print(f"{name:>15}: {getattr(memory, name + '_size_in_bytes') / 1e9:8.3f} GB per device")
    print(f"{'peak':>15}: {memory.peak_memory_in_bytes / 1e9:8.3f} GB per device")
    text = compiled.as_text()
    found = Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
    print(f"collectives in the program: {dict(found)}")
    kernels = re.findall("custom_call_target=.tpu_custom_call", text)
    print(f"splash attention kernels: {len(kernels)}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v6e:2x2", help="chips as a grid, such as v5p:2x2x1")
    parser.add_argument("--preset", default="llama3.2_1b")
    parser.add_argument("--layers", type=int, default=0, help="0: the preset's")
    parser.add_argument("--batch", type=int, default=4, help="rows per device")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--remat", default="full")
    parser.add_argument("--attention", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
