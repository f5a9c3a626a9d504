"""Makes the parity fixtures from transformers and torch.

`python -m tests.parity.make_fixtures` in the project's root writes them anew.
The models are tiny and random, norms and biases included, so that nothing is hidden by a one or a
zero.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from .references import BATCHES, CASES, batches, targets

FOLDER = Path(__file__).parent / "fixtures"


def make(case, seed=0):
    """The reference of a case, see references.py."""
    family, options = CASES[case]
    torch.manual_seed(seed)
    model = _model(family, options)
    total, arrays = torch.zeros(()), {"config": np.array(json.dumps([family, options]))}
    for name, (ids, positions, segments) in batches(options["vocab_size"]).items():
        logits = model(
            input_ids=torch.tensor(ids).long(), position_ids=torch.tensor(positions).long(),
            attention_mask=_mask(name, segments),
        ).logits
        following, valid = targets(ids, segments)
        log_p = torch.log_softmax(logits, -1)
        log_p = log_p.gather(-1, torch.tensor(following).long()[..., None])[..., 0]
        total = total - (log_p * torch.tensor(valid)).sum()
        arrays[f"logits/{name}"] = logits.detach().numpy()
    total.backward()
    arrays["loss"] = total.detach().numpy()
    for name, parameter in model.named_parameters():  # tied ones once
        arrays[f"weights/{name}"] = parameter.detach().numpy()
        arrays[f"gradients/{name}"] = parameter.grad.numpy()
    return arrays


def _model(family, options):
    kind = {"llama": "Llama", "gpt2": "GPT2"}[family]
    config = getattr(transformers, f"{kind}Config")(
        **options, attn_implementation="eager", use_cache=False
    )
    head = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[family]
    model = getattr(transformers, head)(config).eval()
    for name, parameter in model.named_parameters():
        scale = name.endswith("norm.weight") or (".ln_" in name and name.endswith("weight"))
        torch.nn.init.normal_(parameter, mean=1.0 if scale else 0.0, std=0.25)
    return model


def _mask(name, segments):
    """A padding mask as users give it; for packed rows the full additive mask."""
    if name == "padded":
        return torch.tensor(segments)
    length = segments.shape[1]
    causal = np.tril(np.ones((length, length), bool))
    seen = (segments[:, :, None] == segments[:, None, :]) & causal
    return torch.where(torch.tensor(seen), 0.0, torch.finfo(torch.float32).min)[:, None]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        np.savez_compressed(FOLDER / f"{case}.npz", **make(case))
        print(case, (FOLDER / f"{case}.npz").stat().st_size, BATCHES)
