"""The models of each family that are compared with transformers: one file a family, `CASES`.

To add a case, add an entry to the family's file: it is found by its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

KINDS = {
    "ForConditionalGeneration": "encoder_decoder", "ForCausalLM": "decoder",
    "LMHeadModel": "decoder", "ForMaskedLM": "encoder", "ForSequenceClassification": "classifier",
    "ForTokenClassification": "classifier", "Model": "bare",
}


@dataclass(frozen=True)
class Case:
    """A tiny random model of transformers, every hyperparameter away from its default."""

    config: str  # transformers' configuration class
    model: str  # transformers' model class
    options: dict[str, Any]  # of the configuration
    gradients: bool = False  # compare those of all parameters too

    @property
    def kind(self) -> str:
        """decoder, encoder, encoder_decoder, classifier, or bare (hidden states alone)."""
        return next(kind for end, kind in KINDS.items() if self.model.endswith(end))


def cases() -> dict[str, Case]:
    """All cases, by FAMILY.NAME."""
    families = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {
        f"{family}.{name}": case
        for family in families
        for name, case in importlib.import_module(f"{__name__}.{family}").CASES.items()
    }
