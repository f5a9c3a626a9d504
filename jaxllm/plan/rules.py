"""The rules by which `jaxllm advise` ranks approaches, in one table with their sources.

A rule speaks for an approach (points above 0) or against it, or rules it out (NEVER). Of those that
are left the one with most points comes first. Reasons may name what `Facts.words` has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxllm.plan.situation import Facts

NEVER = float("-inf")
APPROACHES = {
    "few_shot": "few-shot prompting: examples in the prompt of a model as it is",
    "retrieval": "retrieval: the passages that matter looked up and put into the prompt",
    "lora": "LoRA: small adapters trained on a frozen base",
    "qlora": "QLoRA: the same on a base in 4 bits",
    "full": "full fine-tuning of all parameters",
    "continued": "continued pre-training on running text, then tuning",
    "scratch": "training from scratch",
}
BILLION = 1e9
MONTH = 30 * 24.0


@dataclass(frozen=True)
class Rule:
    """A sentence of advice."""

    approach: str
    points: float
    when: Callable[[Facts], bool]
    reason: str
    source: str


def _rows(f: Facts) -> bool:
    return f.examples > 0


def _writes(f: Facts) -> bool:
    return f.config.architecture == "decoder"


def _large(f: Facts) -> bool:
    return f.parameters >= BILLION


def _is(*goals: str) -> Callable[[Facts], bool]:
    return lambda f: f.said.goal in goals


def _late(approach: str) -> Callable[[Facts], bool]:
    return lambda f: 0 < f.said.latency < f.latency(approach)


def _tuned(approach: str) -> Callable[[Facts], bool]:
    return lambda f: f.tuned(approach).fits


def _adapted() -> tuple[Rule, ...]:
    """What is said of LoRA and QLoRA alike."""
    return tuple(
        rule for name in ("lora", "qlora") for rule in (
            Rule(name, NEVER, lambda f: not _rows(f),
                 "there are no rows to learn from (--examples)", "TRL: SFT wants rows"),
            Rule(name, NEVER, lambda f: 0 < f.examples < 20,
                 "{examples} rows leave none to hold out: an adapter would learn them by heart",
                 "Mosbach et al. 2021: unstable below a few hundred"),
            Rule(name, NEVER, lambda f, name=name: not _tuned(name)(f),
                 "{model} does not fit {hardware} so", "jaxllm plan: memory of the step"),
            Rule(name, 3, lambda f: _large(f) and 20 <= f.examples <= 1_000_000,
                 "{examples} rows are within what an adapter can hold: as good as full tuning, at "
                 "a fraction of the memory", "Biderman et al. 2024; Schulman 2025"),
            Rule(name, 1, _large, "the base stays as it is: it forgets less",
                 "Biderman et al. 2024, LoRA learns less and forgets less"),
            Rule(name, -2, lambda f: not _large(f),
                 "{model} has only {parameters} parameters: all of them can train",
                 "Devlin et al. 2019"),
            Rule(name, -2, lambda f: f.examples > 1_000_000,
                 "{examples} rows are more than a small adapter can hold", "Schulman 2025"),
            Rule(name, -4, _is("language"), "an adapter teaches no language",
                 "Biderman et al. 2024: continued pre-training"),
        )
    )


RULES: tuple[Rule, ...] = (
    # few-shot
    Rule("few_shot", NEVER, _is("domain", "language"),
         "examples in a prompt teach no field and no language", "Brown et al. 2020, section 3"),
    Rule("few_shot", NEVER, lambda f: _writes(f) and not _large(f),
         "{model} has {parameters} parameters: below about a billion a model makes little of "
         "examples in its prompt", "Brown et al. 2020, figure 1.2"),
    Rule("few_shot", NEVER, lambda f: not f.use_fits("few_shot"),
         "{writer}, which would be prompted, does not fit {hardware}", "jaxllm plan: weights"),
    Rule("few_shot", NEVER, lambda f: f.on_cpu and f.latency("few_shot") > 60_000,
         "an answer of {writer} takes minutes on {hardware}", "jaxllm plan: latency"),
    Rule("few_shot", 3, lambda f: f.examples == 0,
         "there are no examples: ask a model as it is, and keep what is right",
         "Brown et al. 2020; Ouyang et al. 2022"),
    Rule("few_shot", 5, lambda f: 0 < f.examples < 50,
         "with {examples} examples there is nothing to train on: show them in the prompt",
         "Brown et al. 2020; Le Scao and Rush 2021"),
    Rule("few_shot", 3, lambda f: 50 <= f.examples < 200,
         "{examples} examples are about what a good prompt is worth",
         "Le Scao and Rush 2021: a prompt is worth hundreds of rows"),
    Rule("few_shot", -2, lambda f: f.examples >= 200,
         "with {examples} rows a tuned model is better and each answer cheaper",
         "Liu et al. 2022, T-Few"),
    Rule("few_shot", -3, _late("few_shot"),
         "an answer takes longer than {latency} ms with examples before it",
         "jaxllm plan: latency"),
    # retrieval
    Rule("retrieval", NEVER, _is("classify", "extract", "transform", "language"),
         "nothing has to be looked up for this goal", "Lewis et al. 2020"),
    Rule("retrieval", NEVER, lambda f: f.tokens == 0,
         "there are no documents to look into (--domain_tokens)", "Lewis et al. 2020"),
    Rule("retrieval", NEVER, lambda f: not f.use_fits("retrieval"),
         "{writer}, which would read what is found, does not fit {hardware}",
         "jaxllm plan: weights"),
    Rule("retrieval", NEVER, lambda f: _writes(f) and not _large(f),
         "{model} has {parameters} parameters: too few to answer from passages it never saw",
         "Lewis et al. 2020; Brown et al. 2020"),
    Rule("retrieval", 6, _is("answer"),
         "answers come from documents that can be shown and changed",
         "Lewis et al. 2020; Ovadia et al. 2024"),
    Rule("retrieval", 3, lambda f: f.said.goal == "domain" and f.tokens < 1e8,
         "{tokens} tokens are too few to learn facts from, and enough to look them up in",
         "Ovadia et al. 2024, fine-tuning or retrieval"),
    Rule("retrieval", 1, _is("chat", "domain"), "facts are found better than they are learned",
         "Ovadia et al. 2024"),
    Rule("retrieval", -3, _late("retrieval"),
         "an answer takes longer than {latency} ms with passages before it",
         "jaxllm plan: latency"),
    # adapters
    *_adapted(),
    Rule("qlora", -2, _tuned("lora"), "LoRA on a bfloat16 base fits too, and dequantises nothing",
         "Dettmers et al. 2023"),
    Rule("qlora", 2, lambda f: not _tuned("lora")(f),
         "only a base in 4 bits fits {hardware}; it costs little quality",
         "Dettmers et al. 2023: nf4 matches 16 bits"),
    # full
    Rule("full", NEVER, lambda f: not _rows(f), "there are no rows to learn from (--examples)",
         "TRL: SFT wants rows"),
    Rule("full", NEVER, lambda f: 0 < f.examples < 20,
         "{examples} rows leave none to hold out: the model would learn them by heart",
         "Mosbach et al. 2021: unstable below a few hundred"),
    Rule("full", NEVER, lambda f: not _tuned("full")(f),
         "all of {model} with gradients and AdamW does not fit {hardware}",
         "jaxllm plan: 16 bytes a parameter"),
    Rule("full", 5, lambda f: not _large(f) and f.examples >= 100,
         "{model} has {parameters} parameters: tuning all of them is cheap and best",
         "Devlin et al. 2019; Raffel et al. 2020"),
    Rule("full", 2, lambda f: not _large(f) and 20 <= f.examples < 100,
         "{examples} rows are few, yet a small model takes them: try several seeds",
         "Mosbach et al. 2021"),
    Rule("full", 3, lambda f: f.examples > 1_000_000,
         "{examples} rows fill all parameters", "Schulman 2025"),
    Rule("full", 1, lambda f: _large(f) and f.examples >= 100_000,
         "{examples} rows gain a little from all parameters", "Biderman et al. 2024"),
    Rule("full", -2, lambda f: _large(f) and f.examples < 100_000,
         "more is forgotten than with adapters, for no gain at {examples} rows",
         "Biderman et al. 2024; Luo et al. 2023"),
    Rule("full", -4, lambda f: f.said.goal == "language" and _large(f),
         "rows alone teach no language", "Cui et al. 2023"),
    # continued pre-training
    Rule("continued", NEVER, lambda f: f.tokens == 0,
         "there is no running text to learn from (--domain_tokens)", "Gururangan et al. 2020"),
    Rule("continued", NEVER, lambda f: 0 < f.tokens < 1e6,
         "of {tokens} tokens a model learns next to nothing", "Ovadia et al. 2024"),
    Rule("continued", NEVER, lambda f: not f.continued()[1].fits,
         "{model} does not fit {hardware}, not even with adapters", "jaxllm plan: memory"),
    Rule("continued", 5, lambda f: f.said.goal == "domain" and f.tokens >= 1e8,
         "{tokens} tokens of the field change what the model knows",
         "Gururangan et al. 2020; Lewkowycz et al. 2022"),
    Rule("continued", 2, lambda f: f.said.goal == "domain" and 1e6 <= f.tokens < 1e8,
         "{tokens} tokens teach the field's words more than its facts",
         "Gururangan et al. 2020"),
    Rule("continued", 5, lambda f: f.said.goal == "language" and f.tokens < 2e10,
         "{tokens} tokens teach a language to a model that has others, not to an empty one",
         "Cui et al. 2023; Csaki et al. 2023"),
    Rule("continued", 2, lambda f: f.said.goal == "language" and f.tokens >= 2e10,
         "it costs less than from scratch, with a tokenizer made for other languages",
         "Cui et al. 2023"),
    Rule("continued", 2, lambda f: f.said.goal in ("classify", "extract") and f.tokens >= 1e7,
         "{tokens} tokens of the field's text before the rows help an encoder",
         "Gururangan et al. 2020: domain-adaptive pre-training"),
    Rule("continued", -2, _is("chat", "transform", "answer"),
         "text alone teaches no task", "Ouyang et al. 2022"),
    # from scratch
    Rule("scratch", NEVER, _is("chat", "transform", "answer"),
         "a model that knows the language exists", "Kaplan et al. 2020: transfer saves tokens"),
    Rule("scratch", NEVER, lambda f: f.small and f.examples < 5000,
         "{examples} rows cannot teach a model its words too", "Devlin et al. 2019"),
    Rule("scratch", 3, lambda f: f.small and f.on_cpu and f.examples >= 5000,
         "a small encoder learns {examples} rows on a laptop, and answers at once",
         "configs/tune/banking77.py, measured in docs/finetuning.md"),
    Rule("scratch", NEVER, lambda f: not f.small and f.tokens < 1e7,
         "{tokens} tokens are enough for a model of {size} parameters, which writes no sense",
         "Hoffmann et al. 2022: 20 tokens a parameter; Muennighoff et al. 2023: 4 epochs"),
    Rule("scratch", NEVER, lambda f: f.said.goal == "domain" and f.tokens < 1e11,
         "a field of {tokens} tokens is less than a model needs to know the language",
         "Wu et al. 2023, BloombergGPT: 363 billion tokens"),
    Rule("scratch", 3, lambda f: f.said.goal == "domain" and f.tokens >= 1e11,
         "{tokens} tokens make a model of the field's own", "Wu et al. 2023, BloombergGPT"),
    Rule("scratch", 5, lambda f: f.said.goal == "language" and f.tokens >= 2e10,
         "{tokens} tokens are enough for {size} parameters and a tokenizer of the language's own",
         "Hoffmann et al. 2022; Muennighoff et al. 2023"),
    Rule("scratch", 3, lambda f: f.said.goal == "language" and 1e7 <= f.tokens < 2e10,
         "{tokens} tokens are enough for {size} parameters with a tokenizer of its own",
         "Hoffmann et al. 2022; Muennighoff et al. 2023"),
    # time
    *(
        Rule(name, -4, lambda f, name=name: f.hours(name) > MONTH,
             "it takes months on {hardware}", "jaxllm plan: time of a step")
        for name in ("lora", "qlora", "full", "continued", "scratch")
    ),
    *(
        Rule(name, -3, _late(name), "an answer of it takes longer than {latency} ms",
             "jaxllm plan: latency")
        for name in ("lora", "qlora", "full", "continued", "scratch")
    ),
)
