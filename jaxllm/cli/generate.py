"""jaxllm generate: continues prompts with a trained model, token by token.

  jaxllm generate --model=runs/first --prompt="ROMEO:" --max_new_tokens=200 --temperature=0.8
  jaxllm generate --model=runs/assistant --chat --prompt="What is inflation?"
"""

from __future__ import annotations

import sys

from absl import flags

from jaxllm.cli.flags import parse, required


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    name, prompts = required(values, "model"), required(values, "prompt")

    from jaxllm.generate.defaults import Defaults
    from jaxllm.generate.model import load

    model = load(name)
    model.defaults = model.defaults.otherwise(Defaults(max_new_tokens=200, temperature=0.8))
    texts = model.as_chat(prompts) if values.chat else prompts
    # an encoder-decoder answers its prompt and so does a chat, others go on from it
    answers = values.chat or model.model.config.architecture == "encoder_decoder"
    between = "\n" if answers else ""
    alone = len(prompts) == 1
    stream = Stream(prompts[0] + between)
    completions = model.generate(
        texts, max_new_tokens=values.max_new_tokens, temperature=values.temperature,
        top_k=values.top_k, top_p=values.top_p, min_p=values.min_p, beams=values.beams,
        length_penalty=values.length_penalty, stop=values.stop, seed=values.seed,
        on_text=stream if alone else None,
    )
    if alone:
        stream(0, "\n")
    for number, completion in enumerate(completions, 1):
        if completion.finish_reason == "stop" and not completion.token_ids:
            of = "" if alone else f" of prompt {number}"
            print(f"The model ended the text{of} at once: there is nothing more.", file=sys.stderr)
    if alone:
        return 0
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        print(f"--- {index + 1}/{len(prompts)} ({completion.finish_reason})")
        print(prompt + between + completion.text)
    return 0


class Stream:
    """Writes text as it comes, after a prompt that waits for it: a mistake leaves no output."""

    def __init__(self, prompt: str):
        self._waiting = prompt

    def __call__(self, row: int, text: str) -> None:
        sys.stdout.write(self._waiting + text)
        sys.stdout.flush()
        self._waiting = ""


def _define(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_string(
        "model", None, "Run directory (RUN or RUN@STEP), checkpoint or Hugging Face folder.", **add
    )
    flags.DEFINE_multi_string(
        "prompt", None, "Text to go on from; repeat the flag for a batch.", **add
    )
    flags.DEFINE_bool(
        "chat", False, "Ask each prompt as a user's message, by the tokenizer's chat template.",
        **add
    )
    # None: as a Hugging Face folder's generation_config.json says, else the value in brackets
    flags.DEFINE_integer("max_new_tokens", None, "Tokens to generate at most (200).", **add)
    flags.DEFINE_float("temperature", None, "0: always the likeliest token (0.8).", **add)
    flags.DEFINE_integer("top_k", None, "Draw from the k likeliest; 0: all (0).", **add)
    flags.DEFINE_float("top_p", None, "Draw from the likeliest that add up to p (1.0).", **add)
    flags.DEFINE_float(
        "min_p", None, "Drop tokens below this share of the likeliest (0.0).", **add
    )
    flags.DEFINE_integer("beams", None, "Search with so many beams; 1: draw tokens (1).", **add)
    flags.DEFINE_float(
        "length_penalty", None, "Beams: score = log-probability / length ** this (1.0).", **add
    )
    flags.DEFINE_multi_string("stop", [], "Text that ends the generation; repeatable.", **add)
    flags.DEFINE_integer("seed", 0, "Of the draws.", **add)
