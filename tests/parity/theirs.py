"""The reference of a case as transformers computes it on torch."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from jaxllm.models.hf.family import find_family
from tests.parity.cases import Case
from tests.parity.ours import wanted_names
from tests.parity.reference import Reference, Rows, chosen, entries, make_rows, weight

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def make(case: Case, seed: int, sparse: bool) -> Reference:
    """The model with the weights of `seed`, as transformers reads it from its folder."""
    with tempfile.TemporaryDirectory() as folder:
        config, shapes, copies, model = _make_model(case, Path(folder), seed)
    labels = model.config.num_labels if case.kind == "classifier" else 0
    rows = make_rows(case.kind, config, labels, seed)
    for name in shapes:
        _leaf(model, name).requires_grad_(case.gradients)
    torch.set_grad_enabled(case.gradients)
    try:
        hidden, outputs = _run(case, model, rows)
        places = chosen(rows.segments, sparse)
        loss = torch.zeros(())
        if case.gradients:
            loss = _loss(outputs, rows)
            loss.backward()
    finally:
        torch.set_grad_enabled(True)
    tokens = outputs.ndim == 3
    outputs = outputs.detach().numpy()
    return Reference(
        config, shapes, copies, seed, sparse, rows,
        {
            tower: states.detach().numpy().reshape(len(states), -1, states.shape[-1])[
                :, chosen(rows.encoder_segments, sparse)
                if tower == "encoder" and rows.encoder_ids is not None else places
            ]
            for tower, states in hidden.items()
        },
        outputs.reshape(-1, outputs.shape[-1])[places] if tokens else outputs,
        loss.item(),
        _gradients(model, shapes, copies, sparse) if case.gradients else {},
    )


def _make_model(case: Case, folder: Path, seed: int):
    """config.json, shapes and copies of the tensors, and the model."""
    options = dict(case.options)
    if case.kind == "classifier":
        options.setdefault("pad_token_id", 0)  # theirs finds the last token by it
    config = getattr(transformers, case.config)(**options)
    kind = getattr(transformers, case.model)
    kind._from_config(config, attn_implementation="eager").save_pretrained(folder)
    text = json.loads((folder / "config.json").read_text())
    file = folder / "model.safetensors"
    shapes = {name: array.shape for name, array in sorted(load_file(file).items())}
    names, twins = wanted_names(text), find_family(text).twins
    copies = {name: twins[name] for name in shapes if name not in names and name in twins}
    tensors = {name: weight(copies.get(name, name), shape, seed) for name, shape in shapes.items()}
    save_file(tensors, file, {"format": "pt"})
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    for name, array in tensors.items():
        assert np.array_equal(_leaf(model, name).detach().numpy(), array), f"{name} was not read"
    return text, shapes, copies, model.eval()


def _leaf(model, name: str) -> torch.Tensor:
    module, _, last = name.rpartition(".")
    return getattr(model.get_submodule(module), last)


def _run(case: Case, model, rows: Rows):
    """Hidden states [L + 1, R, T, D] of each tower and the outputs, [R, T, …] or [R, …]."""
    def call(ids, types=None, **more):
        more = {name: torch.tensor(array).long() for name, array in more.items()}
        if types is not None:
            more["token_type_ids"] = torch.tensor(types).long()
        return model(
            input_ids=torch.tensor(ids).long(), output_hidden_states=True, **more
        )

    if rows.encoder_ids is not None:
        more = {} if case.kind == "classifier" else {
            "decoder_input_ids": rows.ids, "decoder_attention_mask": rows.segments,
        }
        out = call(rows.encoder_ids, attention_mask=rows.encoder_segments, **more)
        hidden = {
            "encoder": torch.stack(out.encoder_hidden_states),
            "decoder": torch.stack(out.decoder_hidden_states),
        }
        return hidden, _outputs(case, out, rows)
    padded = rows.positions.shape[0]
    if case.kind in ("decoder", "encoder"):
        padded //= 2
    types = None if rows.types is None else rows.types[:padded]
    out = call(rows.ids[:padded], types, attention_mask=rows.segments[:padded])
    hidden, outputs = [torch.stack(out.hidden_states)], [_outputs(case, out, rows)]
    for row in range(padded, len(rows.ids)):  # each document alone
        starts = np.flatnonzero(rows.positions[row] == 0)
        alone = []
        for start, end in zip(starts, [*starts[1:], rows.ids.shape[1]], strict=True):
            here = (slice(row, row + 1), slice(start, end))
            types = None if rows.types is None else rows.types[here]
            alone.append(call(rows.ids[here], types))
        hidden.append(torch.cat([torch.stack(out.hidden_states) for out in alone], 2))
        outputs.append(torch.cat([out.logits for out in alone], 1))
    tower = "encoder" if model.config.model_type in ("bert", "roberta") else "decoder"
    return {tower: torch.cat(hidden, 1)}, torch.cat(outputs)


def _outputs(case: Case, out, rows: Rows) -> torch.Tensor:
    if case.kind != "bare":
        return out.logits
    if getattr(out, "pooler_output", None) is not None:
        return out.pooler_output
    last = (rows.segments != 0).sum(1) - 1
    return out.last_hidden_state[np.arange(len(last)), last]


def _loss(outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The sum over real tokens of the negative log-likelihood of `rows.targets`."""
    targets = torch.tensor(rows.targets).long()[..., None]
    log_p = torch.log_softmax(outputs, -1).gather(-1, targets)[..., 0]
    return -(log_p * torch.tensor(rows.segments != 0)).sum()


def _gradients(model, shapes, copies, sparse: bool) -> dict[str, np.ndarray]:
    """Of every tensor of the file; those of copies are added to their original's."""
    total = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()
             if name not in copies}
    for name in shapes:
        if (gradient := _leaf(model, name).grad) is not None:
            total[copies.get(name, name)] += gradient.numpy()
    return {name: entries(gradient, sparse) for name, gradient in total.items()}
