"""F1 of named entities, the CoNLL measure: an entity counts when its span and type are right.

Tags are IOB2 (B-PER I-PER O), read by seqeval in its strict mode: an I- that no B- or I- of its
type comes before begins no entity. Predictions and references are lists of tags, one for a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.evals.extras import need
from jaxllm.evals.labels import ratio


def statistics(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> np.ndarray:
    """[N, 3]: entities found, predicted and true.

    Raises:
      UserError: tags that are no IOB2, or not as many predicted as true ones.
    """
    scheme = need("seqeval.scheme", "entity_f1")
    rows = []
    for number, (mine, true) in enumerate(zip(predictions, references, strict=True)):
        if len(mine) != len(true):
            raise UserError(
                f"entity_f1: example {number} has {len(mine)} predicted tags and {len(true)} "
                "references: give a tag for every word."
            )
        found, wanted = _entities(scheme, mine, number), _entities(scheme, true, number)
        rows.append([len(found & wanted), len(found), len(wanted)])
    return np.asarray(rows, np.float64).reshape(-1, 3)


def finish(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """`entity_precision`, `entity_recall` and `entity_f1`, from 0 to 1, 0 where none is there."""
    hit, predicted, true = sums.T
    return {
        "entity_f1": ratio(2 * hit, predicted + true),
        "entity_precision": ratio(hit, predicted),
        "entity_recall": ratio(hit, true),
    }


def _entities(scheme, tags: Sequence[str], number: int) -> set[tuple[int, int, str]]:
    try:
        (entities,) = scheme.Entities([list(tags)], scheme=scheme.IOB2).entities
    except (KeyError, ValueError) as error:
        raise UserError(
            f"entity_f1: example {number} has tags that are no IOB2 ({error}): write B-TYPE at an "
            "entity's first word, I-TYPE at its others and O elsewhere."
        ) from error
    return {(entity.start, entity.end, entity.tag) for entity in entities}
