"""What every test shares: eight fake devices, one compilation cache, tiny models, golden files.

jax is set up before anything imports it. Compiled programs are kept in pytest's cache folder, so
that the processes of a run and the next run share them.
"""

import gc
import json
import os
from pathlib import Path

import pytest

from .quick import FLAGS

GOLDEN = Path(__file__).parent / "golden"

# Two processes of tests on two cores: more threads in either only wait for each other.
for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# What jax, torch and the tests themselves have made never dies: looking through it for garbage
# took an eighth of the time.
gc.set_threshold(100_000, 20, 50)


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="run the tests marked thorough too, as CI does"
    )
    parser.addoption("--slow", action="store_true", help="run every test")
    parser.addoption(
        "--optimise", action="store_true", help="compile as a user's run does, see quick.py"
    )
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )


def pytest_configure(config):
    config.addinivalue_line(  # Orbax drops its coroutines when it meets a damaged checkpoint
        "filterwarnings",
        "ignore:Exception ignored in. <coroutine object _read_array:"
        "pytest.PytestUnraisableExceptionWarning",
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    quick = "" if config.getoption("--optimise") else FLAGS
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {quick}".strip()
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # libtpu is a compiler here, and two may be loaded
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["JAXLLM_CACHE"] = str(config.cache.mkdir("jaxllm"))
    from jaxllm.core import devices

    devices.start()


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    left_out = {"slow"} if config.getoption("--thorough") else {"slow", "thorough"}
    for item in items:
        for name in left_out & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=f"{name}: run with --{name}"))


def pytest_collection_finish(session):
    gc.freeze()


@pytest.fixture
def golden(request):
    """`golden(name, value)` asserts that `value` is what tests/golden/NAME.json holds.

    `pytest --update-golden` writes the file instead: a decision, visible in review.
    """

    def check(name, value, compare=None):
        file = GOLDEN / f"{name}.json"
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        assert file.exists(), f"{file} is missing: write it with --update-golden"
        expected = json.loads(file.read_text())
        if compare:
            compare(value, expected)
        else:
            assert json.loads(json.dumps(value)) == expected, f"differs from {file}"

    return check


@pytest.fixture(scope="session")
def tiny():
    """Models by family, every size small and no two alike: two layers, or a pattern's and a half.
    """
    from jaxllm.models.config import ModelConfig
    from jaxllm.nn.config import (
        AttentionConfig,
        EmbeddingConfig,
        EncoderConfig,
        HeadConfig,
        InitConfig,
        MlpConfig,
        NormConfig,
        PositionConfig,
    )

    llama = ModelConfig(
        family="llama", vocab_size=48, width=32, layers=2,
        attention=AttentionConfig(heads=4, kv_heads=2, head_dim=16),
        positions=PositionConfig(max_length=64), mlp=MlpConfig(width=40),
        init=InitConfig(stddev=0.1),
    )
    gpt2 = ModelConfig(
        family="gpt2", vocab_size=48, width=32, layers=2, tied=True,
        attention=AttentionConfig(heads=4, bias=True, output_bias=True),
        positions=PositionConfig(kind="learned", max_length=24), norm=NormConfig("layernorm"),
        mlp=MlpConfig(width=56, activation="gelu_tanh", gated=False, bias=True),
        init=InitConfig(stddev=0.1, scale_residual=True),
    )
    bert = ModelConfig(
        family="bert", architecture="encoder", vocab_size=48, width=32, layers=2, tied=True,
        attention=AttentionConfig(heads=4, bias=True, output_bias=True),
        positions=PositionConfig(kind="learned", max_length=24),
        norm=NormConfig("layernorm", placement="post"), embedding=EmbeddingConfig(types=2),
        mlp=MlpConfig(width=56, activation="gelu", gated=False, bias=True),
        head=HeadConfig("masked_lm", bias=True), init=InitConfig(stddev=0.1),
    )
    t5 = ModelConfig(
        family="t5", architecture="encoder_decoder", vocab_size=48, width=32, layers=2, tied=True,
        encoder=EncoderConfig(layers=3), attention=AttentionConfig(heads=4, head_dim=10),
        positions=PositionConfig(kind="relative", buckets=8, max_distance=16),
        mlp=MlpConfig(width=40, activation="relu", gated=False), head=HeadConfig(scaled=True),
        init=InitConfig(stddev=0.3),
    )
    gemma3 = ModelConfig(
        family="gemma3", vocab_size=48, width=32, layers=5, tied=True, logit_softcap=3.0,
        attention=AttentionConfig(
            heads=4, kv_heads=2, head_dim=16, window=4, pattern=("local", "global"),
            qk_norm="head",
        ),
        positions=PositionConfig(theta=500.0, local_theta=40.0, max_length=64),
        norm=NormConfig("rmsnorm", placement="sandwich", unit_offset=True),
        mlp=MlpConfig(width=40, activation="gelu_tanh"), embedding=EmbeddingConfig(scaled=True),
        init=InitConfig(stddev=0.1),
    )
    models = {"llama": llama, "gpt2": gpt2, "bert": bert, "t5": t5, "gemma3": gemma3}
    return {name: config.completed() for name, config in models.items()}


@pytest.fixture(scope="session")
def compute():
    """Float32 on the first device."""
    from jaxllm.nn.compute import make_compute

    return make_compute()


@pytest.fixture(scope="session")
def sharding_of():
    """`sharding_of(data=2, tensor=4)`: the Sharding of that mesh over the eight fake devices."""
    from jaxllm.core.config import MeshConfig
    from jaxllm.core.mesh import Sharding, make_mesh

    return lambda **axes: Sharding(make_mesh(MeshConfig(**{"fsdp": 1, **axes})))


@pytest.fixture(scope="session")
def build():
    """`build(config, compute, seed)`: a fresh Transformer as (structure, params)."""
    from functools import partial

    import jax

    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.module import abstract, split

    def make(config, compute, seed=0):
        structure, _ = abstract(partial(Transformer, config=config, compute=compute))
        init = jax.jit(lambda key: split(Transformer(key, config, compute))[1])
        return structure, init(jax.random.key(seed))

    return make
