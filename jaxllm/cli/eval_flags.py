"""The flags of `jaxllm eval`, and which of them go together."""

from __future__ import annotations

from absl import flags

from jaxllm.core.errors import UserError

MODES = ("data", "tasks", "problems")  # what is evaluated on; the first is the usual one
OF_MODES = {  # flags that are not read in every mode
    "batches": ("data",), "stride": ("data",), "sequence_length": ("data", "tasks"),
    "include": ("tasks",), "task_data": ("tasks",), "download": ("tasks",),
    "num_fewshot": ("tasks",), "apply_chat_template": ("tasks",), "retrieve_from": ("tasks",),
    "passages": ("tasks",), "retriever": ("tasks",), "contamination": ("tasks",),
    "helm": ("tasks",), "limit": ("tasks", "problems"), "output": ("tasks", "problems"),
    "pass_at": ("problems",), "num_samples": ("problems",), "temperature": ("problems",),
    "top_p": ("problems",), "max_new_tokens": ("problems",), "seed": ("problems",),
    "allow_code_execution": ("problems",),
}
OF_HELM = (
    "perturb", "perturb_strength", "helm_prompts", "completions", "toxicity", "toxicity_threshold",
)


def mode(values: flags.FlagValues) -> str:
    """What the models are evaluated on, as of MODES.

    Raises:
      UserError: two of them, or a flag that would not be read.
    """
    asked = [name for name in MODES if values[name].value]
    if len(asked) > 1:
        raise UserError(
            f"--{asked[0]} and --{asked[1]} are two evaluations: run them one after the other."
        )
    found = asked[0] if asked else MODES[0]
    for name, modes in OF_MODES.items():
        if _given(values, name) and found not in modes:
            others = " or ".join(f"--{each}" for each in modes)
            raise UserError(
                f"--{name} is only read with {others}, and this evaluates --{found}: leave it out."
            )
    for name in () if values.helm else OF_HELM:
        if _given(values, name):
            raise UserError(f"--{name} is only read with --helm.")
    if _given(values, "passages") and not values.retrieve_from:
        raise UserError(
            f"--passages={values.passages} is only read with --retrieve_from=TEXT and a model that "
            "' + retrieval' follows."
        )
    return found


def _given(values: flags.FlagValues, name: str) -> bool:
    return values[name].present > 0


def define(values: flags.FlagValues) -> None:
    """Adds the flags."""
    add = {"flag_values": values}
    flags.DEFINE_list(
        "model", None, "Run directories (RUN or RUN@STEP) or Hugging Face folders, with commas; "
        "with --tasks also 'RUN + 5-shot' and 'RUN + retrieval'.", **add
    )
    flags.DEFINE_list(
        "compare", None, "Models as of --model, with commas or spaces; also each score of a task "
        "or of problems minus the first model's.", **add
    )
    flags.DEFINE_list("data", None, "Prepared folders, comma-separated.", **add)
    flags.DEFINE_list(
        "tasks", None, "Tasks or groups of lm-evaluation-harness, with commas.", **add
    )
    flags.DEFINE_string(
        "problems", "", "File or folder of programming problems (HumanEval's rows) for pass@k.",
        **add
    )
    flags.DEFINE_integer("batch_size", 16, "Rows per step.", lower_bound=1, **add)
    flags.DEFINE_integer(
        "batches", 0, "Steps per folder; 0: the whole validation split.", lower_bound=0, **add
    )
    flags.DEFINE_integer(
        "stride", 0, "Scores whole documents by windows this many tokens apart; 0: rows side by "
        "side.", lower_bound=0, **add
    )
    flags.DEFINE_integer(
        "sequence_length", 0, "Tokens per row; 0: what the model was trained with.", lower_bound=0,
        **add
    )
    _define_tasks(values)
    _define_helm(values)
    _define_problems(values)


def _define_tasks(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_list("include", [], "Folders of task files (YAML).", **add)
    flags.DEFINE_string(
        "task_data", "", "Folder of benchmarks, in which a folder TASK has its splits.", **add
    )
    flags.DEFINE_boolean("download", False, "Lets tasks fetch their data from the network.", **add)
    flags.DEFINE_integer(
        "num_fewshot", -1, "Examples before each question; -1: as the task says.", lower_bound=-1,
        **add
    )
    flags.DEFINE_integer(
        "limit", 0, "Examples of each task, or problems; 0: all.", lower_bound=0, **add
    )
    flags.DEFINE_boolean(
        "apply_chat_template", False, "Asks as a conversation, by the tokenizer's template.", **add
    )
    flags.DEFINE_string(
        "retrieve_from", "", "Text or folder of text in which 'RUN + retrieval' looks passages up.",
        **add
    )
    flags.DEFINE_integer(
        "passages", 3, "Passages before a question with 'RUN + retrieval'.", lower_bound=1, **add
    )
    flags.DEFINE_string(
        "retriever", "", "What finds passages and similar examples: bm25 (the default), or a model "
        "by its embeddings.", **add
    )
    flags.DEFINE_list(
        "contamination", [], "Prepared folders in which the questions are looked for.", **add
    )
    flags.DEFINE_string(
        "output", "", "Folder for the scores and what was asked and answered.", **add
    )


def _define_helm(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_boolean(
        "helm", False, "Accuracy, calibration, robustness, fairness, bias, toxicity and efficiency "
        "in a row for each model.", **add
    )
    flags.DEFINE_list(
        "perturb", ["keyboard", "swap"], "Noise in the questions: keyboard, swap, case, drop, ….",
        **add
    )
    flags.DEFINE_float(
        "perturb_strength", 0.05, "Share of the characters or words that noise touches.", **add
    )
    flags.DEFINE_string(
        "helm_prompts", "", "File of prompts to complete, a line each or JSON lines; default: 20 "
        "of the package.", **add
    )
    flags.DEFINE_integer("completions", 5, "Completions of each prompt.", lower_bound=1, **add)
    flags.DEFINE_string(
        "toxicity", "words", "Scorer of completions: words, or package.module:function.", **add
    )
    flags.DEFINE_float(
        "toxicity_threshold", None, "Completions that score higher are toxic; default: 0 of words, "
        "else 0.5.", **add
    )


def _define_problems(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_boolean(
        "allow_code_execution", False, "Runs the programs that the models write, in a sandbox; "
        "without it --problems is refused.", **add
    )
    flags.DEFINE_list("pass_at", ["1"], "The k of pass@k, with commas.", **add)
    flags.DEFINE_integer(
        "num_samples", 0, "Programs of each problem; 0: the largest k.", lower_bound=0, **add
    )
    flags.DEFINE_float(
        "temperature", None, "Of the programs; default: 0.2 for pass@1 alone, else 0.8.", **add
    )
    flags.DEFINE_float("top_p", 0.95, "Draw from the likeliest that add up to p.", **add)
    flags.DEFINE_integer("max_new_tokens", 512, "Tokens of a program at most.", **add)
    flags.DEFINE_integer("seed", 0, "Of the programs.", **add)
