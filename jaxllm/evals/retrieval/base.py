"""What every retriever offers, and the one that `--retriever` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from jaxllm.core.display import Display
from jaxllm.evals.retrieval.bm25 import Bm25, library
from jaxllm.evals.retrieval.embeddings import Embedded, Embedder

BM25 = "bm25"


class Index(Protocol):
    """Texts that are ranked."""

    def rank(self, queries: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
        """(place, score) of the `count` texts likest to each query, the likest first."""


MakeIndex = Callable[[Sequence[str]], Index]


def retriever(name: str, batch_size: int, display: Display) -> MakeIndex:
    """What makes an index: BM25 ("" or bm25), or the embeddings of the model of this name.

    Raises:
      UserError: no such model, one without parameters, or a library that is not installed.
    """
    if name in ("", BM25):
        library()
        return Bm25
    with display.phase(f"reading {name}"):
        embedder = Embedder.open(name, batch_size, display.warn)
    return lambda texts: Embedded(texts, embedder)
