"""jaxllm generate: continues prompts with a trained model, token by token.

  jaxllm generate --model=runs/first --prompt="ROMEO:" --max_new_tokens=200 --temperature=0.8
"""

from __future__ import annotations

import sys

from absl import flags

from jaxllm.cli.flags import parse, required


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    name, prompts = required(values, "model"), required(values, "prompt")

    from jaxllm.generate.model import load

    model = load(name)
    alone = len(prompts) == 1
    if alone:
        print(prompts[0], end="", flush=True)
    completions = model.generate(
        prompts, max_new_tokens=values.max_new_tokens, temperature=values.temperature,
        top_k=values.top_k, top_p=values.top_p, min_p=values.min_p, stop=values.stop,
        seed=values.seed, on_text=_stream if alone else None,
    )
    if alone:
        print()
        return 0
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        print(f"--- {index + 1}/{len(prompts)} ({completion.finish_reason})")
        print(prompt + completion.text)
    return 0


def _stream(row: int, text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _define(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_string("model", None, "Run directory (RUN or RUN@STEP) or checkpoint.", **add)
    flags.DEFINE_multi_string(
        "prompt", None, "Text to go on from; repeat the flag for a batch.", **add
    )
    flags.DEFINE_integer("max_new_tokens", 200, "Tokens to generate at most.", **add)
    flags.DEFINE_float("temperature", 0.8, "0: always the likeliest token.", **add)
    flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest; 0: all.", **add)
    flags.DEFINE_float("top_p", 1.0, "Draw from the likeliest that add up to p.", **add)
    flags.DEFINE_float("min_p", 0.0, "Drop tokens below this share of the likeliest.", **add)
    flags.DEFINE_multi_string("stop", [], "Text that ends the generation; repeatable.", **add)
    flags.DEFINE_integer("seed", 0, "Of the draws.", **add)
