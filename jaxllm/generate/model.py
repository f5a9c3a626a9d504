"""`jaxllm.load(model)`: a trained model for notebooks and scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxllm.core.errors import UserError, naming_memory
from jaxllm.data import tokenizers
from jaxllm.generate.beams import BeamSearch
from jaxllm.generate.decode import generate
from jaxllm.generate.defaults import Defaults, read_defaults
from jaxllm.generate.rows import Completion, OnText
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import ChatText, check_writes
from jaxllm.generate.texts import Filled, fill_masks, log_probabilities, text_outputs
from jaxllm.models.config import LANGUAGE_HEADS
from jaxllm.models.hf.importer import is_hf_folder
from jaxllm.models.load import Model, find_model
from jaxllm.models.parameters import first_not_finite
from jaxllm.nn.compute import make_compute

MEMORY = "Lower max_new_tokens or beams, or give fewer or shorter prompts at a time."
Texts = str | Sequence[str]


class LoadedModel:
    """A model with its tokenizer."""

    def __init__(
        self, model: Model, tokenizer: tokenizers.Tokenizer, defaults: Defaults | None = None
    ):
        self.model, self.tokenizer = model, tokenizer
        self.defaults = defaults or Defaults()

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.model.params))
        return (
            f"LoadedModel({self.model.config.family}, {count:,} parameters, "
            f"step {self.model.step:,})"
        )

    def generate(
        self, prompts: Texts, *, max_new_tokens: int | None = None,
        temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
        min_p: float | None = None, beams: int | None = None,
        length_penalty: float | None = None, early_stopping: bool | str | None = None,
        stop: Texts = (), seed: int = 0, on_text: OnText | None = None,
    ) -> list[Completion]:
        """Continues the prompts; see `jaxllm.generate.decode.generate`.

        `beams` above 1 searches with so many beams (see `BeamSearch`), else tokens are drawn as
        `Sampling` says. What is not given is as the model's folder says, else 100 tokens drawn at
        temperature 1.
        """
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        searching = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        how = self._beams(beams, drawing, searching)
        most = self._or_default("max_new_tokens", max_new_tokens)
        most, prompts = 100 if most is None else most, _listed(prompts)
        with naming_memory(f"Generating (prompts={len(prompts)}, max_new_tokens={most})", MEMORY):
            return generate(
                self.model, self.tokenizer, prompts, max_new_tokens=most,
                sampling=None if how else Sampling(**self._filled(drawing)), beams=how,
                rules=self.defaults.rules, stop=_listed(stop), seed=seed, on_text=on_text,
                warn=partial(print, file=sys.stderr),
            )

    def as_chat(self, prompts: Texts) -> list[ChatText]:
        """The text that asks each prompt as a user's message, for `generate` to answer.

        Raises:
          UserError: the tokenizer has no chat template.
        """
        return [
            ChatText(self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True
            ))
            for prompt in _listed(prompts)
        ]

    def score(self, texts: Texts) -> list[np.ndarray]:
        """Log-probability in nats of every token of each text given those before it.

        The first token has none before it: a text of n tokens gives n - 1 numbers.

        Raises:
          UserError: a text of fewer than two tokens, or of more than the model has positions; a
            model that reads no text from left to right.
        """
        check_writes(self.model.config)
        if self.model.config.architecture == "encoder_decoder":
            raise UserError(
                "An encoder-decoder gives its text no probability without an input to the "
                "encoder: scores are those of a decoder."
            )
        return log_probabilities(self.model, self.tokenizer, _listed(texts))

    def classify(self, texts: Texts, pairs: Texts | None = None) -> list[np.ndarray]:
        """Each text's scores (logits) of the classes, float32 [classes]; of a pair with `pairs`.

        A token classifier gives [tokens, classes], with a row for each special token too, and a
        reward model a single number.

        Raises:
          UserError: the model has no such head, or a text is too long.
        """
        self._check_head("classify", "sequence_classification", "token_classification", "reward")
        pairs = None if pairs is None else _listed(pairs)
        return text_outputs(self.model, self.tokenizer, _listed(texts), pairs)

    def embed(self, texts: Texts) -> np.ndarray:
        """The vector that stands for each text, float32 [texts, width].

        Raises:
          UserError: the model has another head, or a text is too long.
        """
        self._check_head("embed", "embedding")
        outputs = text_outputs(self.model, self.tokenizer, _listed(texts))
        return np.stack(outputs) if outputs else np.zeros((0, self.model.config.width), np.float32)

    def fill_mask(self, texts: Texts, top: int = 5) -> list[list[list[Filled]]]:
        """The likeliest tokens at each mask token of each text (`tokenizer.token_text(mask_id)`).

        The texts are wrapped in the tokenizer's special tokens. For every text there is a list of
        its masks, and for every mask the `top` tokens, the likeliest first.

        Raises:
          UserError: the model fills in nothing, or a text has no mask or is too long.
        """
        self._check_head("fill_mask", "masked_lm")
        return fill_masks(self.model, self.tokenizer, _listed(texts), top)

    def _check_head(self, verb: str, *kinds: str) -> None:
        kind = self.model.config.head.kind
        if kind in kinds:
            return
        can = "generate" if kind in LANGUAGE_HEADS else "embed" if kind == "embedding" \
            else "classify"
        if self.model.config.architecture == "encoder" and kind in LANGUAGE_HEADS:
            can = "fill in masked tokens (LoadedModel.fill_mask)"
        raise UserError(
            f"The model has model.head.kind={kind!r}: it can {can}, not {verb}. That takes a head "
            f"of {' or '.join(map(repr, kinds))}."
        )

    def _beams(
        self, beams: int | None, drawing: dict[str, Any], searching: dict[str, Any]
    ) -> BeamSearch | None:
        """The beam search that is asked for, if any."""
        drawn = [name for name, value in drawing.items() if value is not None]
        if beams is None and not drawn:
            beams = self.defaults.beams
        beams = 1 if beams is None else beams
        searched = [name for name, value in searching.items() if value is not None]
        if beams != 1 and drawn:
            raise UserError(
                f"{drawn[0]} has no effect with beams={beams}, which looks for the likeliest "
                "text: leave one of them out."
            )
        if beams == 1 and searched:
            raise UserError(f"{searched[0]} has no effect without beam search: set beams=4, say.")
        return None if beams == 1 else BeamSearch(beams, **self._filled(searching))

    def _or_default(self, name: str, given: Any) -> Any:
        return getattr(self.defaults, name) if given is None else given

    def _filled(self, given: dict[str, Any]) -> dict[str, Any]:
        """What is given or is the folder's default; the rest is left to the dataclass."""
        values = {name: self._or_default(name, value) for name, value in given.items()}
        return {name: value for name, value in values.items() if value is not None}


def load(model: str, *, dtype: str = "auto") -> LoadedModel:
    """Opens a run directory (`RUN`, `RUN@STEP`), a checkpoint or a Hugging Face folder.

    Raises:
      UserError: there is no such model, or a parameter of it is not finite.
    """
    from jaxllm.core import devices

    devices.start()
    saved = find_model(model)
    warn = partial(print, file=sys.stderr)
    loaded = saved.load(make_compute(dtype=dtype), warn)
    if saved.run and (bad := first_not_finite(loaded.params)):  # of a folder it was looked at
        raise UserError(
            f"model={model!r}: its parameter {bad} is not finite (NaN or infinite), so the model "
            "says nothing. Choose another step, or another model."
        )
    defaults = read_defaults(model, loaded.config, warn) if is_hf_folder(model) else None
    return LoadedModel(loaded, saved.load_tokenizer(), defaults)


def _listed(texts: Texts) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts
