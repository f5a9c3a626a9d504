"""The parts of gpu.py: each is run as `gpu_parts.py PART OPTIONS` in a process of its own.

A part prints its results as lines "> {json}" as soon as it has them.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

Options = dict[str, Any]

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")


def ceiling(options: Options) -> None:
    """bf16 products of 8192^3 in both frameworks, and torch's attention kernels."""
    import torch

    device = "cpu" if options["debug"] else "cuda"
    size = 128 if options["debug"] else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = timed(lambda: a @ b, lambda _: _synchronise(device), 20)
    emit(torch_tflops=round(2 * size**3 / seconds / 1e12, 1))
    _jax_ceiling(size)
    best: dict[str, float] = {}
    for backend in ("flash", "cudnn"):
        for B, T, N, K, H in _attention_shapes(options):
            try:
                seconds = _torch_attention(backend, B, T, N, K, H, device)
            except Exception as error:  # a kernel that the card or this torch lacks
                emit(**{f"torch_{backend}_{H}": str(error).splitlines()[0][:150]})
                best[backend] = float("inf")
                continue
            best[backend] = best.get(backend, 0.0) + seconds
            emit(**{f"torch_{backend}_{H}": _attention_result(seconds, B, T, N, H)})
    emit(torch_attention=min(best, key=best.get))


def _jax_ceiling(size: int) -> None:
    import jax
    import jax.numpy as jnp

    from jaxllm.core import devices

    devices.start()
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in range(2))
    multiply = jax.jit(jnp.matmul)
    seconds = timed(lambda: multiply(a, b), jax.block_until_ready, 20)
    emit(jax_tflops=round(2 * size**3 / seconds / 1e12, 1), jax_device=devices.describe())


def _torch_attention(backend: str, B: int, T: int, N: int, K: int, H: int, device: str) -> float:
    """Seconds of causal SDPA, forward and backward."""
    import torch

    _choose_sdpa(backend, device)
    q, k, v = (
        torch.randn(B, n, T, H, device=device, dtype=torch.bfloat16, requires_grad=True)
        for n in (N, K, K)
    )
    gradient = torch.randn_like(q)

    def call():
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )
        return torch.autograd.grad(out, (q, k, v), gradient)

    return timed(call, lambda _: _synchronise(device), 10)


def _choose_sdpa(backend: str, device: str) -> None:
    import torch

    if device == "cuda":
        torch.backends.cuda.enable_math_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_flash_sdp(backend == "flash")
        torch.backends.cuda.enable_cudnn_sdp(backend == "cudnn")


def _synchronise(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def jaxllm_model(options: Options) -> None:
    """Our compiled step."""
    import jax
    import jax_side

    from jaxllm.core import devices
    from jaxllm.nn.compute import make_compute

    devices.start()
    model, B, T = _model(options), options["batch"], options["length"]
    begin = time.perf_counter()
    training = jax_side.Training(
        model,
        jax_side.batch_of(
            jax_side.random_ids(model.vocab_size, B, T), documents=options["documents"]
        ),
        compute=make_compute(remat=options["remat"], unroll=options["unroll"]),
        loss_chunk=-(-options["loss_tokens"] // B),
    )
    emit(devices=devices.describe(), compile_seconds=round(time.perf_counter() - begin, 1))
    metrics: dict[str, jax.Array] = {}

    def step():
        metrics.update(training.step())
        return training.state

    seconds = timed(step, jax.block_until_ready, 5)
    peak = devices.peak_memory_bytes(jax.devices()[0])
    _emit_step(options, model, seconds, peak, float(metrics["loss"]))


def torch_model(options: Options) -> None:
    """The same model in transformers: float32 weights, bf16 autocast, torch.compile."""
    import jax_side
    import torch
    import torch_peer

    device = "cpu" if options["debug"] else "cuda"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    _choose_sdpa(options["torch_attention"], device)
    config, B, T = _model(options), options["batch"], options["length"]
    with torch.device(device):
        model = torch_peer.llama(config, T)
    # aot_eager: all of torch.compile but the code generation
    model.compile(dynamic=False, backend="aot_eager" if options["debug"] else "inductor")
    step = torch_peer.make_step(model, jax_side.OPTIMIZER, device)
    ids = torch.from_numpy(jax_side.random_ids(config.vocab_size, B, T)).long().to(device)
    begin = time.perf_counter()
    try:
        loss = float(step(ids))
    except Exception as error:
        if options["torch_attention"] == "flash" or _is_out_of_memory(error):
            raise
        emit(torch_attention_failed=str(error).splitlines()[0][:150])
        _choose_sdpa("flash", device)
        torch._dynamo.reset()
        loss = float(step(ids))
    emit(parameters=torch_peer.parameters(model), loss_at_start=round(loss, 4),
         compile_seconds=round(time.perf_counter() - begin, 1))
    losses = []
    seconds = timed(lambda: losses.append(step(ids)), lambda _: _synchronise(device), 5)
    peak = None if options["debug"] else torch.cuda.max_memory_allocated()
    _emit_step(options, config, seconds, peak, float(losses[-1]))


def _emit_step(options: Options, model, seconds: float, peak: int | None, loss: float) -> None:
    """The figures of a step; FLOPs by our formula (models/flops.py) for both sides."""
    from functools import partial

    from jaxllm.models.flops import train_flops_per_row
    from jaxllm.models.parameters import param_count
    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.compute import make_compute
    from jaxllm.nn.module import abstract

    specs = abstract(partial(Transformer, config=model, compute=make_compute()))[1]
    tokens = options["batch"] * options["length"]
    flops = options["batch"] * train_flops_per_row(model, specs, options["length"])
    emit(
        layers=model.layers, tokens=tokens, parameters=param_count(specs),
        step_seconds=seconds, tokens_per_second=tokens / seconds, tflops=flops / seconds / 1e12,
        peak_gib=peak and round(peak / 2**30, 2), loss=round(loss, 4),
    )


def attention(options: Options) -> None:
    """Our kernels, forward and backward, with and without documents in a row."""
    import jax
    import jax.numpy as jnp

    from jaxllm.core import devices
    from jaxllm.nn.compute import make_compute
    from jaxllm.nn.kernels.attention import Pattern, Places, attend

    devices.start()
    for kernel in ("xla",) if options["debug"] else ("cudnn", "xla"):
        compute = make_compute(attention=kernel)
        for B, T, N, K, H in _attention_shapes(options):
            keys = jax.random.split(jax.random.key(0), 4)
            q, k, v, g = (
                jax.random.normal(key, (B, T, heads, H), jnp.bfloat16)
                for key, heads in zip(keys, (N, K, K, N), strict=True)
            )
            ids = jnp.broadcast_to(jnp.arange(T) // (T // 4) + 1, (B, T))
            for documents, segments in ((1, None), (4, ids)):
                def forward(q, k, v, segments=segments, compute=compute):
                    places = Places(None, None, segments, segments)
                    return attend(q, k, v, Pattern(), places, compute)

                def both(q, k, v, g, forward=forward):
                    return jax.vjp(forward, q, k, v)[1](g)

                call = jax.jit(both)
                name = f"{kernel}_{H}_documents_{documents}"
                seconds = _try(name, lambda call=call, a=(q, k, v, g): call(*a))
                if seconds:
                    emit(**{name: _attention_result(seconds, B, T, N, H)})


def loss(options: Options) -> None:
    """The chunked cross-entropy of the 1B shape, forward and backward, by chunk size."""
    import jax
    import jax.numpy as jnp

    from jaxllm.core import devices
    from jaxllm.nn.compute import make_compute
    from jaxllm.train.loss_chunks import chunk_size
    from jaxllm.train.losses import LossOptions, cross_entropy

    devices.start()
    B, T, D, V = (2, 64, 32, 512) if options["debug"] else (8, 4096, 2048, 128_256)
    compute = make_compute()
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (B, T, D), compute.dtype)
    kernel = jax.random.normal(keys[1], (D, V), jnp.float32) * 0.02
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jnp.ones((B, T), jnp.float32)
    for chunk in (0, *(c for c in (16, 64, 128, 256, 512, 1024, 4096) if c <= T)):
        settings = LossOptions(chunk=chunk)

        def total(hidden, kernel, settings=settings):
            return cross_entropy(hidden, kernel, targets, weights, settings, compute).loss

        call = jax.jit(jax.value_and_grad(total, (0, 1)))
        size = chunk_size(settings, compute, B, T, V)
        name = f"chunk_{chunk or 'default'}"
        seconds = _try(name, lambda call=call: call(hidden, kernel))
        if seconds:
            emit(**{name: {
                "tokens_per_chunk": B * size, "ms": round(seconds * 1e3, 3),
                "tflops": round(6 * B * T * D * V / seconds / 1e12, 1),
            }})


def chars(options: Options) -> None:
    """nanoGPT's GPU character recipe by our own commands; its best validation loss."""
    from jaxllm.core.rundir import read_metrics

    variant = "debug" if options["debug"] else "gpu"
    with tempfile.TemporaryDirectory(prefix="jaxllm_bench_") as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        for command in (
            ("prepare", "--config=configs/data/shakespeare_char.py", f"--workdir={data}"),
            ("train", f"--config=configs/shakespeare_char.py:{variant}", f"--workdir={run}",
             f"--config.data.mixture.shakespeare.path={data}", "--config.eval.prompts=()"),
        ):
            begin = time.perf_counter()
            subprocess.run((*measure.JAXLLM, *command), cwd=measure.ROOT, check=True,
                           stdout=subprocess.DEVNULL)
            emit(**{f"{command[0]}_seconds": round(time.perf_counter() - begin, 1)})
        records = read_metrics(run / "metrics.jsonl")
    steps = [r["step_seconds"] for r in records if r["split"] == "train"]
    losses = [(r["loss"], r["step"]) for r in records if r["split"] == "validation"]
    emit(best_validation_loss=min(losses)[0], at_step=min(losses)[1],
         median_step_ms=round(statistics.median(steps) * 1e3, 2))


def timed(call: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Seconds a call: the median of 3 windows of `steps` queued calls, after 2 to warm up."""
    for _ in range(2):
        wait(call())
    windows = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(steps):
            last = call()
        wait(last)
        windows.append((time.perf_counter() - begin) / steps)
    return statistics.median(windows)


def emit(**values: Any) -> None:
    """Hands results to gpu.py."""
    print("> " + json.dumps(values), flush=True)


def _try(name: str, call: Callable[[], Any]) -> float | None:
    """Seconds of a jax call, or None when it fails, with the reason emitted."""
    import jax

    try:
        return timed(call, jax.block_until_ready, 5)
    except Exception as error:  # one kernel or size that does not run; the others still count
        emit(**{name: str(error).splitlines()[0][:150]})
        return None


def _is_out_of_memory(error: Exception) -> bool:
    return any(sign in str(error) for sign in OUT_OF_MEMORY)


def _model(options: Options):
    """The 1B is Llama 3.2 1B's shape; the 8B a stack of Llama 3.1 8B's layers."""
    from jaxllm.models.config import preset

    if options["debug"]:
        small = dataclasses.replace(preset("llama_debug"), vocab_size=512)
        return dataclasses.replace(small, tied=options["model"] == "1b").completed()
    if options["model"] == "1b":
        return preset("llama3.2_1b").completed()
    return dataclasses.replace(preset("llama3.1_8b"), layers=options["layers"]).completed()


def _attention_shapes(options: Options) -> tuple[tuple[int, ...], ...]:
    """B, T, query heads, key/value heads and head dimension of the two models."""
    if options["debug"]:
        return ((2, 64, 4, 2, 16),)
    return ((4, 4096, 32, 8, 64), (2, 4096, 32, 8, 128))


def _attention_result(seconds: float, B: int, T: int, N: int, H: int) -> dict[str, float]:
    flops = 3 * 4 * B * N * H * T * T / 2  # the causal half; backward twice the forward
    return {"ms": round(seconds * 1e3, 3), "tflops": round(flops / seconds / 1e12, 1)}


PARTS = {
    "ceiling": ceiling, "jaxllm_1b": jaxllm_model, "torch_1b": torch_model,
    "jaxllm_8b": jaxllm_model, "torch_8b": torch_model, "jaxllm_1b_packed": jaxllm_model,
    "attention": attention, "loss": loss, "chars": chars,
}


def main() -> None:
    try:
        PARTS[sys.argv[1]](json.loads(sys.argv[2]))
    except Exception as error:
        if _is_out_of_memory(error):
            emit(out_of_memory=str(error).splitlines()[0][:200])
        raise


if __name__ == "__main__":
    main()
