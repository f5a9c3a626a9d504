"""Synthetic run directories, shaped as `jaxllm train` and `jaxllm eval` write them."""

import json
import math
import random

import pytest


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A function that writes a run directory and returns its path.

    The data of the runs are gone: there are none in the current folder.
    """
    monkeypatch.chdir(tmp_path)

    def make(name="base", **options):
        return write_run(tmp_path / name, **options)

    return make


def write_run(
    root, steps=400, log_every=10, floor=3.2, mfu=True, validation=True, samples=True,
    evaluated=None, processes=1, seed=0, difference=None,
):
    """Writes config.json and metrics.jsonl; `evaluated` is {dataset: loss}."""
    root.mkdir(parents=True)
    config = {
        "seed": 42,
        "model": {"family": "llama", "width": 192, "layers": 4},
        "data": {
            "sequence_length": 128, "global_batch_size": 16, "objective": "causal",
            "mixture": {"general": {"path": "data/shakespeare", "weight": 1.0}},
        },
        "train": {"steps": steps, "init_from": ""},
        "optimizer": {"learning_rate": 1e-3},
    }
    (root / "config.json").write_text(json.dumps({
        "difference": difference or {"train.steps": steps, "optimizer.learning_rate": 1e-3},
        "config": config,
        "versions": {"jaxllm": "0.1.0", "jax": "0.10.2", "python": "3.11.7"},
        "devices": "1 x cpu",
        "parameters": 1_543_000,
    }))
    lines = list(_records(steps, log_every, floor, mfu, validation, samples, processes, seed))
    for dataset, loss in (evaluated or {}).items():
        lines.append({
            "step": steps, "split": f"eval/{dataset}", "loss": loss, "perplexity": math.exp(loss),
            "bits_per_byte": loss / 2.4, "tokens": 36_000,
        })
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(root)


def _records(steps, log_every, floor, mfu, validation, samples, processes, seed):
    noise = random.Random(seed)
    for step in range(log_every, steps + 1, log_every):
        share = step / steps
        mean = floor + 5.5 * math.exp(-4 * step / steps)
        loss = mean + noise.gauss(0, 0.08)
        slow = 3 if noise.random() < 0.02 else 1
        rate = noise.gauss(41_000, 900) / slow
        yield {
            "step": step, "split": "train", "loss": loss, "perplexity": math.exp(loss),
            "grad_norm": abs(noise.gauss(0.9, 0.2)) + 4 * math.exp(-20 * step / steps),
            "learning_rate": 1e-3 * min(10 * share, 0.5 + 0.5 * math.cos(3 * share)),
            "tokens": step * 2048, "step_seconds": 2048 / rate, "tokens_per_second": rate,
            "tokens_per_second_per_device": rate, "mfu": rate / 90_000 if mfu else None,
            "data_wait_seconds": 0.001, "peak_memory_bytes": None,
        }
        process = step * processes // (steps + 1)
        yield {
            "step": step, "split": "time", "process": process, "compile_seconds": 6.5,
            "data_seconds": step * 0.002, "step_seconds": step * 0.05,
            "checkpoint_seconds": 1.2, "evaluation_seconds": step * 0.004, "other_seconds": 1.5,
        }
        if validation and step % (log_every * 10) == 0:
            yield {
                "step": step, "split": "validation", "loss": mean + 0.15,
                "perplexity": math.exp(mean + 0.15), "bits_per_byte": mean / 2.4, "tokens": 36_000,
            }
        if samples and step % (log_every * 10) == 0:
            for prompt in ("ROMEO:", "The Committee decided to"):
                text = f" what light & <b>love</b> </script> at {step}?\nJULIET:\n\tAy me — 中文!"
                yield {"step": step, "split": "samples", "prompt": prompt, "text": text}
