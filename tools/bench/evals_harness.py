"""Log-likelihoods of benchmark questions: our backend of lm-evaluation-harness and its own `hf`.

Both score the same requests with the same random Llama of 20 million parameters on the CPU, in
turns. Ours is timed twice: with compilation, and again with everything compiled.

  python tools/bench/evals_harness.py --task_data=DIR --limit=50
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

TASKS = ("local_mmlu", "local_piqa", "local_openbookqa", "local_copa", "local_bbq_religion")
VOCABULARY = 8000


def make_folder(folder: Path, task_data: str) -> int:
    """Writes a random Llama and a tokenizer trained on the package's samples; its parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import jaxllm

    texts = [str(file) for file in (Path(jaxllm.__file__).parent / "samples").rglob("*.txt")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([*texts, str(Path(task_data) / "piqa" / "valid.jsonl")], trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(fast), hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=12, num_key_value_heads=6, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=1,
    ))
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def requests_of(task_data: str, limit: int, shots: int) -> list:
    """The log-likelihood requests of the tasks."""
    from jaxllm.evals.harness.find import find_tasks

    loaded = find_tasks(TASKS, task_data=task_data).load(list(TASKS))
    requests = []
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1)
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        requests += task.instances
    return requests


def main() -> None:
    """Prints the seconds, the ratio and what was compiled, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task_data", required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--num_fewshot", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=16)
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.models.huggingface import HFLM

    from jaxllm.core.display import make_display
    from jaxllm.evals.harness.adapter import JaxLM
    from jaxllm.models.load import find_model
    from jaxllm.nn.compute import make_compute

    with tempfile.TemporaryDirectory() as place:
        parameters = make_folder(Path(place), given.task_data)
        requests = requests_of(given.task_data, given.limit, given.num_fewshot)
        saved = find_model(place)
        ours = JaxLM(
            saved.load(make_compute(), print), saved.load_tokenizer(), make_display(),
            batch_size=given.batch_size, max_length=2048,
        )
        theirs = HFLM(
            pretrained=place, device="cpu", dtype="float32", batch_size=given.batch_size)
        seconds: dict[str, list[float]] = {"ours": [], "hf": []}
        found = {}
        for _ in range(2):
            for name, lm in (("hf", theirs), ("ours", ours)):
                begin = time.perf_counter()
                found[name] = lm.loglikelihood(requests, disable_tqdm=True)
                seconds[name].append(round(time.perf_counter() - begin, 2))
    apart = max(abs(a[0] - b[0]) for a, b in zip(*found.values(), strict=True))
    counts = ours.scorer.counts
    print(json.dumps({
        "parameters": parameters, "requests": len(requests), "shots": given.num_fewshot,
        "seconds": seconds, "largest_difference": apart, "compiles": counts.compiles,
        "ratio_with_compilation": round(seconds["hf"][0] / seconds["ours"][0], 2),
        "ratio_compiled": round(seconds["hf"][1] / seconds["ours"][1], 2),
        "tokens_asked": counts.tokens // 2, "tokens_computed": counts.computed // 2,
    }, indent=1))


if __name__ == "__main__":
    main()
