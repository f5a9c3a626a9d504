"""What the machine is: the platform chosen quietly, the compilation cache, the peak of a chip."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from jaxllm.core import cluster

# Dense bfloat16 FLOP/s of one chip (one jax device), from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153e12,  # per core; a chip has two
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h


def start(cache: bool = True, told: Mapping[str, str] | None = None) -> None:
    """Prepares jax before its first use: no TPU warnings without a TPU, compiled programs kept.

    Joins the other processes of a run on several hosts (core/cluster.py), by what the flags
    `told` of them and the environment. The persistent compilation cache lies in `$JAXLLM_CACHE`
    (default `~/.cache/jaxllm`); an empty `JAXLLM_CACHE` turns it off.

    Raises:
      UserError: what is said of the other processes cannot be.
    """
    if "JAX_PLATFORMS" not in os.environ and not _accelerator_visible():
        os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu prints a page of warnings otherwise
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        _keep_memory()
    import jax

    if not jax.config.jax_platforms:  # jax was imported before, and read the environment then
        jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS"))
    if place := cluster.find(told or {}):
        cluster.connect(place)
    folder = os.environ.get("JAXLLM_CACHE", str(Path("~/.cache/jaxllm").expanduser()))
    if cache and folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def quick_options(platform: str) -> dict[str, str]:
    """The compiler's options for a program that runs once.

    On a CPU the start of a model compiles twice as fast with them, and gives the same bits.
    """
    name = "xla_backend_optimization_level"
    if platform != "cpu" or name in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {name: "1"}


def describe() -> str:
    """The devices in words, such as "8 x TPU v5e"."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def peak_flops(device) -> float | None:
    """Peak dense FLOP/s of one device: the data sheet's, or for a CPU the measured matmul rate."""
    if device.platform == "cpu":
        return _measure_matmul()
    kind = device.device_kind
    matches = [name for name in PEAK_FLOPS if name.lower() in kind.lower()]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def peak_memory_bytes(device) -> int | None:
    """The most memory the device has used so far; None where the backend does not say."""
    stats = device.memory_stats() if hasattr(device, "memory_stats") else None
    return stats.get("peak_bytes_in_use") if stats else None


def _accelerator_visible() -> bool:
    files = ("/dev/accel0", "/dev/vfio/0", "/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd",
             "/dev/dxg")  # of WSL
    found = any(os.path.exists(name) for name in files) or shutil.which("nvidia-smi")
    return bool(found or "TPU_NAME" in os.environ)  # as launch/env.sh


def _keep_memory() -> None:
    """Lets malloc keep freed memory instead of handing it back to the system.

    XLA's CPU backend takes and frees its temporary buffers at every step; by default glibc maps
    and unmaps them each time, and the page faults cost a third of a small model's step. One arena,
    because those of threads cannot hold a block over 64 MiB and map it after all.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_ARENA_MAX, 1)
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)


def _measure_matmul(size: int = 512, samples: int = 8, seconds: float = 0.04) -> float:
    """float32 FLOP/s of a square matrix product, shared by the fake devices of one CPU.

    The best of several short samples with pauses between them: other programs come and go, and a
    product this small often ends before they take the core.
    """
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    best = float("inf")
    for _ in range(samples):
        stop = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < stop:
            multiply(a, a).block_until_ready()
            best = min(best, time.perf_counter() - begin)
        time.sleep(seconds / 5)
    return 2 * size**3 / best / jax.local_device_count()
