"""jaxllm convert: turns a Hugging Face folder into a run directory, and a run into such a folder.

  jaxllm convert --model=Llama-3.2-1B --output=runs/llama
  jaxllm convert --model=runs/first --output=first_hf --dtype=bfloat16

A run that trained an adapter becomes a folder of PEFT, or with --merge a whole model:

  jaxllm convert --model=runs/lora --output=adapter
  jaxllm convert --model=runs/lora --output=merged_hf --merge
  jaxllm convert --model=Llama-3.2-1B+adapter:0.5+other --output=merged_hf
"""

from __future__ import annotations

import os

from absl import flags

from jaxllm.cli.flags import parse, required


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    model, output = required(values, "model"), required(values, "output")

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing here is for an accelerator
    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start()
    from jaxllm.models.convert import convert

    with make_display() as display:
        parity = convert(
            model, output, display, dtype=values.dtype, shard_bytes=values.shard_bytes,
            check=values.check, merge=values.merge,
        )
        display.message(f"wrote {output}")
        if parity:
            there = "; transformers is not installed, so it was not compared"
            if parity["transformers"] is not None:
                there = f" and {parity['transformers']:.2g} in transformers"
            display.message(
                f"outputs differ from the source's, of which the largest is "
                f"{parity['largest_logit']:.2g}, by at most {parity['reimported']:.2g} after "
                f"importing again{there}"
            )
    return 0


def _define(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_string(
        "model", None, "Hugging Face folder, run directory (RUN or RUN@STEP) or checkpoint; "
        "BASE+ADAPTER[:WEIGHT] for one with adapters.", **add
    )
    flags.DEFINE_string("output", None, "What to write; it must not be there yet.", **add)
    flags.DEFINE_string("dtype", "", "float32 or bfloat16; empty: as stored.", **add)
    flags.DEFINE_integer(
        "shard_bytes", 5 * 10**9, "Of a safetensors file at most; more become several.", **add
    )
    flags.DEFINE_boolean(
        "merge", False, "Write an adapter into the weights of its base.", **add
    )
    flags.DEFINE_boolean(
        "check", True, "Compare the exported model's outputs with the source's (parity.json); "
        "this loads the model.", **add
    )
