"""Every local benchmark scored twice: by our backend of lm-evaluation-harness and by its own `hf`.

Three tiny random models that transformers writes (a Llama, a GPT-2 and a T5, float32), with
tokenizers trained on the package's samples, answer all questions of the local tasks without
examples, some of them with five, and a rolling task over the samples. It must hold for each
example: the same prompt, log-likelihoods within 1e-3, the same choice and the same greedy text.
Ends with 1 where it does not.

  python tools/bench/evals_parity.py --task_data=DIR
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measure import machine

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

TOLERANCE = 1e-3  # of an example's log-likelihood
PERPLEXITY = 1e-4  # of a perplexity or bits per byte, relative
WIDTH, LAYERS, HEADS = 64, 2, 4
LENGTH, VOCABULARY = 512, 2000
ROLLING = """
task: samples_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}, {{metric: byte_perplexity}}]
"""
PASSES = (  # tasks, and examples before each question
    (("local", "samples_rolling"), 0),
    (("local_mmlu", "local_piqa", "local_openbookqa", "local_copa"), 5),
)
DEBUG_PASSES = ((("local_piqa", "local_bbh_navigate", "samples_rolling"), 0), (("local_piqa",), 2))
SIZES = (300, 900, 1500, 2500)  # characters of a text that is rolled over
METRICS = ("acc", "exact_match", "bits_per_byte")  # the one that is shown


class Compared(NamedTuple):
    """A task on both sides."""

    task: str
    shots: int
    examples: int
    apart: float | None  # the largest difference of a log-likelihood
    choices: int  # examples whose log-likelihoods say another choice or another greedy text
    texts: tuple[int, int]  # generations that are equal, of how many
    scores: tuple[float, float]  # hf's and ours
    prompts: bool  # whether all are equal
    metrics: bool  # whether all are equal

    @property
    def holds(self) -> bool:
        """Whether both sides are the same."""
        return (
            self.prompts and self.metrics and not self.choices
            and (self.apart or 0.0) <= TOLERANCE and self.texts[0] == self.texts[1]
        )


def samples() -> list[Path]:
    """The package's texts."""
    import jaxllm

    return sorted((Path(jaxllm.__file__).parent / "samples").rglob("*.txt"))


def write_tokenizer(folder: Path, kind: str, start: str, end: str) -> int:
    """A tokenizer of the package's samples in transformers' files; its number of tokens."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys((start, end)))
    if kind == "unigram":
        own = Tokenizer(models.Unigram())
        own.normalizer = normalizers.NFKC()
        own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special.append("<unk>")
        trainer = trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False)
    else:
        own = Tokenizer(models.BPE())
        own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        own.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    own.train([str(file) for file in samples()], trainer)
    pairs = [(token, own.token_to_id(token)) for token in special]
    if kind == "unigram":
        own.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=pairs)
    elif start != end:
        own.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=pairs)
    names = {"eos_token": end, "bos_token": start}
    if kind == "unigram":
        names = {"eos_token": end, "pad_token": start, "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=own, **names).save_pretrained(folder)
    return own.get_vocab_size()


def write_llama(folder: Path) -> None:
    """Untied, with fewer key heads; its texts begin with <s>."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(
        vocab_size=write_tokenizer(folder, "bpe", "<s>", "</s>"), hidden_size=WIDTH,
        intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, max_position_embeddings=LENGTH, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1,
    )).save_pretrained(folder)


def write_gpt2(folder: Path) -> None:
    """Learned positions, tied; nothing before a text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    end = "<|endoftext|>"
    GPT2LMHeadModel(GPT2Config(
        vocab_size=write_tokenizer(folder, "bpe", end, end), n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, n_positions=LENGTH, initializer_range=0.2, bos_token_id=0, eos_token_id=0,
    )).save_pretrained(folder)


def write_t5(folder: Path) -> None:
    """An encoder and a decoder, relative positions, pieces of a unigram model; </s> ends a text."""
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(
        vocab_size=write_tokenizer(folder, "unigram", "<pad>", "</s>"), d_model=WIDTH,
        d_kv=WIDTH // HEADS, d_ff=2 * WIDTH, num_layers=LAYERS, num_heads=HEADS,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    ))
    # The others' scale: hf adds log-likelihoods in float32, whose steps at 16,000 nats are 1e-3.
    model.lm_head.weight.data *= 0.25
    model.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], None]] = {
    "llama": write_llama, "gpt2": write_gpt2, "t5": write_t5}


def write_rolling(folder: Path, count: int) -> Path:
    """A task file over pieces of the samples, some longer than a context; its folder."""
    text = "\n\n".join(file.read_text() for file in samples())
    sizes = [SIZES[number % len(SIZES)] for number in range(count)]
    places = itertools.accumulate(sizes, initial=0)
    pieces = [text[at : at + size] for at, size in zip(places, sizes, strict=False)]
    rows = folder / "rolling.jsonl"
    rows.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    (folder / "rolling.yaml").write_text(ROLLING.format(file=rows))
    return folder


def write_questions(folder: Path) -> Path:
    """Four questions of PIQA and of a task of BIG-Bench-Hard, for --debug."""
    goals = ["open a jar", "dry a shirt", "cool a room", "find a river"]
    for name in ("piqa", "bbh"):
        (folder / name).mkdir()
    (folder / "piqa" / "valid.jsonl").write_text("".join(
        json.dumps({"goal": f"To {goal}", "sol1": "turn it", "sol2": f"hang it, then {goal}"})
        + "\n" for goal in goals))
    (folder / "piqa" / "valid-labels.lst").write_text("0\n1\n" * 2)
    examples = [{"input": f"If you {goal}, do you return?", "target": "No"} for goal in goals]
    (folder / "bbh" / "navigate.json").write_text(json.dumps({"examples": examples}))
    return folder


def open_both(folder: Path) -> dict[str, Any]:
    """lm-eval's backend, and ours as the verb opens it."""
    from lm_eval.models.huggingface import HFLM

    from jaxllm.core.display import make_display
    from jaxllm.evals.harness.session import Settings, open_model
    from jaxllm.models.load import find_model

    class Theirs(HFLM):
        """Writes as many tokens as a task says after a prompt that an encoder reads, too."""

        def _model_generate(self, context, max_length, stop, **kwargs):
            if self.backend == "seq2seq":  # HFLM counts the prompt as text that was written
                max_length += 1 - context.shape[1]
            return super()._model_generate(context, max_length, stop, **kwargs)

    theirs = Theirs(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, max_length=LENGTH)
    settings = Settings(batch_size=16, sequence_length=LENGTH)
    quiet = make_display(io.StringIO())
    return {
        "hf": theirs,
        "jaxllm": open_model(find_model(str(folder)), folder.name, quiet, settings),
    }


def evaluated(lm: Any, names: tuple[str, ...], shots: int, limit: int, where: dict) -> dict:
    """lm-eval's samples and results of a model on tasks."""
    from lm_eval.evaluator import evaluate

    from jaxllm.evals.harness.find import find_tasks

    loaded = find_tasks(names, **where).load(list(names))
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=own or (0 if own == 0 else shots))
        task.set_fewshot_seed(seed=1)
    return evaluate(lm=lm, task_dict=loaded, limit=limit or None, bootstrap_iters=0)


def compare(found: dict[str, dict], shots: int) -> Iterator[Compared]:
    """Every task of a pass, hf's answers beside ours."""
    theirs, ours = found["hf"], found["jaxllm"]
    for task, samples_ in theirs["samples"].items():
        apart, choices, equal, written, prompts = None, 0, 0, 0, True
        first = samples_[0]["filter"]
        pairs = [
            (a, b) for a, b in zip(samples_, ours["samples"][task], strict=True)
            if a["filter"] == first
        ]
        for a, b in pairs:
            prompts &= a["arguments"] == b["arguments"]
            answers = [(x, y) for [x], [y] in zip(a["resps"], b["resps"], strict=True)]
            if isinstance(answers[0][0], str):
                written += len(answers)
                equal += sum(x == y for x, y in answers)
                for x, y in answers:
                    if x != y:
                        print(f"{task} {a['doc_id']}: hf wrote {x!r}, we {y!r}")
                continue
            scored = [(_numbers(x), _numbers(y)) for x, y in answers]
            apart = max([apart or 0.0, *(abs(x[0] - y[0]) for x, y in scored)])
            choices += any(x[1] != y[1] for x, y in scored) or a.get("acc") != b.get("acc")
        one, two = theirs["results"][task], ours["results"][task]
        names = [name for name in one if "," in name and "stderr" not in name]
        shown = next(name for metric in METRICS for name in names if name.startswith(metric))
        yield Compared(
            task, shots, len(pairs), apart, choices, (equal, written), (one[shown], two[shown]),
            prompts, all(_same(name, one[name], two[name]) for name in names),
        )


def _numbers(answer: Any) -> tuple[float, bool | None]:
    return answer if isinstance(answer, tuple) else (float(answer), None)


def _same(name: str, one: float, two: float) -> bool:
    if "perplexity" in name or "bits" in name:
        return math.isclose(one, two, rel_tol=PERPLEXITY)
    return one == two or (math.isnan(one) and math.isnan(two))


def show(name: str, rows: list[Compared], seconds: dict[str, float]) -> None:
    """Prints the table of a model."""
    taken = ", ".join(f"{side} {value:.0f} s" for side, value in seconds.items())
    print(f"\n{name} ({taken})\n")
    print("| task | before | examples | largest difference | hf | jaxllm | equal texts | holds |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        apart = "–" if row.apart is None else f"{row.apart:.1e}"
        texts = f"{row.texts[0]} of {row.texts[1]}" if row.texts[1] else "–"
        one, two = (f"{score:.4f}" for score in row.scores)
        holds = "yes" if row.holds else f"NO ({row.choices} choices)"
        print(
            f"| {row.task} | {row.shots} | {row.examples} | {apart} | {one} | {two} | {texts} | "
            f"{holds} |"
        )
    sys.stdout.flush()


def main() -> int:
    """Prints a table for each model; 1 if a row does not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task_data", default="")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--limit", type=int, default=0, help="examples of a task; 0: all")
    parser.add_argument("--debug", action="store_true", help="few questions of its own")
    given = parser.parse_args()
    if not (given.task_data or given.debug):
        parser.error("--task_data=DIR is needed")
    print(machine("torch", "transformers", "lm_eval"), flush=True)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import datasets
    import torch

    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # the models are too small for more
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        where = {
            "include": [str(write_rolling(root, 4 if given.debug else 40))],
            "task_data": str(write_questions(root)) if given.debug else given.task_data,
        }
        for name in given.models.split(","):
            (folder := root / name).mkdir()
            torch.manual_seed(0)
            MODELS[name](folder)
            both, rows, seconds = open_both(folder), [], dict.fromkeys(("hf", "jaxllm"), 0.0)
            for tasks, shots in DEBUG_PASSES if given.debug else PASSES:
                found = {}
                for side, lm in both.items():
                    begin = time.perf_counter()
                    found[side] = evaluated(lm, tasks, shots, given.limit, where)
                    seconds[side] += time.perf_counter() - begin
                rows += compare(found, shots)
            show(name, rows, seconds)
            failed += sum(not row.holds for row in rows)
    print(f"\n{failed} rows do not hold" if failed else "\nall rows hold")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
