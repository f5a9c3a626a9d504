"""Set-up before jax's first use, seen in fresh processes, and the table of peak FLOP/s."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxllm.core import devices


@pytest.mark.parametrize(("kind", "peak"), [
    ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12), ("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA H100 80GB HBM3", 989e12), ("tpu v5e", 197e12), ("Quantum 1", None),
])
def test_peak_flops_takes_the_longest_match(kind, peak):
    assert devices.peak_flops(SimpleNamespace(platform="tpu", device_kind=kind)) == peak


def test_peak_flops_of_a_cpu_is_measured():
    assert 1e8 < devices.peak_flops(jax.devices()[0]) < 1e14


def test_the_best_of_the_samples_counts(monkeypatch):
    """A machine that is busy in all but one of the samples: the clock runs slowly there once."""
    now, calls = [0.0], [0]

    def clock():
        calls[0] += 1
        now[0] += 0.001 if 8 < calls[0] < 14 else 0.02
        return now[0]

    monkeypatch.setattr(devices.time, "perf_counter", clock)
    monkeypatch.setattr(devices.time, "sleep", lambda seconds: None)
    assert devices._measure_matmul(64) == pytest.approx(2 * 64**3 / 0.001 / 8)


@pytest.mark.parametrize(("file", "program", "visible"), [
    ("", "", False), ("/dev/dxg", "", True), ("/dev/nvidia0", "", True), ("", "nvidia-smi", True),
])
def test_what_shows_an_accelerator(monkeypatch, file, program, visible):
    monkeypatch.delenv("TPU_NAME", raising=False)
    monkeypatch.setattr(devices.os.path, "exists", lambda name: name == file)
    monkeypatch.setattr(devices.shutil, "which", lambda name: program == name or None)
    assert devices._accelerator_visible() is visible


def test_descriptions():
    assert devices.describe() == "8 x cpu"
    assert devices.peak_memory_bytes(jax.devices()[0]) is None
    stats = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 5})
    assert devices.peak_memory_bytes(stats) == 5


def fresh_process(tmp_path, first="pass", **env):
    """Output lines of a process that starts and compiles; the cache is in tmp_path."""
    program = (
        f"{first}; import os; from jaxllm.core import devices; devices.start(); import jax;"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "print(os.environ.get('JAX_PLATFORMS'), jax.default_backend(), jax.device_count());"
        "jax.jit(lambda x: x * 3 + 1)(2.0)"
    )
    base = {k: v for k, v in os.environ.items()
            if k not in ("JAX_PLATFORMS", "XLA_FLAGS", "JAXLLM_CACHE", "TPU_NAME")}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**base, "HOME": str(tmp_path), **env},
        capture_output=True, text=True, check=True,
    )
    return result.stdout.strip(), result.stderr


@pytest.mark.skipif(devices._accelerator_visible(), reason="this machine has an accelerator")
@pytest.mark.parametrize("first", ["pass", "import jax"])
def test_without_an_accelerator_it_is_a_quiet_cpu_with_the_default_cache(tmp_path, first):
    out, err = fresh_process(tmp_path, first)
    assert (out, err) == ("cpu cpu 1", "")
    assert any((tmp_path / ".cache" / "jaxllm").iterdir())


def test_the_cache_folder_is_the_one_asked_for(tmp_path):
    fresh_process(tmp_path, JAX_PLATFORMS="cpu", JAXLLM_CACHE=str(tmp_path / "here"))
    assert any((tmp_path / "here").iterdir())
    assert not (tmp_path / ".cache").exists()


def test_an_empty_cache_folder_turns_it_off(tmp_path):
    fresh_process(tmp_path, JAX_PLATFORMS="cpu", JAXLLM_CACHE="")
    assert not (tmp_path / ".cache").exists()


def test_quick_options_change_no_bit(monkeypatch):
    key = jax.random.key(3)  # first: the backend reads the flags when it starts
    monkeypatch.delenv("XLA_FLAGS")
    assert devices.quick_options("tpu") == {}
    options = devices.quick_options("cpu")
    lowered = jax.jit(lambda key: 0.02 * jax.random.normal(key, (64, 33))).lower(key)
    whole = lowered.compile(compiler_options={name: "3" for name in options})
    np.testing.assert_array_equal(lowered.compile(compiler_options=options)(key), whole(key))
