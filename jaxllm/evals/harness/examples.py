"""In-context examples as an option of any task: the baseline that no parameter is tuned for.

`RUN + 5-shot similar` is the model RUN with five examples before each question: `fixed` ones (the
first), `random` ones (drawn anew for each question, alike in every evaluation), or `similar` ones,
whose questions the retriever finds likest to the asked one (BM25, or an encoder's embeddings), the
most similar last. The asked question is never among the fixed and similar ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler, FirstNSampler

from jaxllm.core.errors import UserError
from jaxllm.evals.harness.ahead import Ahead
from jaxllm.evals.harness.variants import SIMILAR
from jaxllm.evals.retrieval.base import MakeIndex

COPIES = 8  # of the question itself that there is room for


class _Similar(ContextSampler):
    """The examples whose questions are likest to the asked one."""

    def __init__(self, documents: Sequence[Mapping[str, Any]], task: Any, make_index: MakeIndex):
        super().__init__(documents)
        self._index = make_index([str(task.doc_to_text(document)) for document in documents])
        self._found = Ahead(task, lambda doc: str(task.doc_to_text(doc)), self._index.rank)
        self.asked: Mapping[str, Any] | None = None

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **kwargs: Any) -> list:
        """The `n` most similar examples, the most similar last."""
        found = self._found(self.asked, min(len(self.df), n + COPIES))
        others = [self.df[place] for place, _ in found if self.df[place] != self.asked]
        return others[:n][::-1]


def choose_examples(task: Any, kind: str, make_index: MakeIndex | None = None) -> None:
    """Makes a task of lm-eval take its examples in this way ("" leaves it as it is).

    `make_index` is what finds `similar` ones.

    Raises:
      UserError: the task has no examples to take.
    """
    if not kind:
        return
    if not hasattr(task, "sampler"):
        raise UserError(f"--tasks: {task.task_name} has no examples that could be shown.")
    documents = list(task.sampler.fewshot_docs())
    if kind != SIMILAR:
        task.sampler = (FirstNSampler if kind == "fixed" else ContextSampler)(documents)
        return
    task.sampler = sampler = _Similar(documents, task, make_index)
    plain = task.fewshot_context

    def context(doc: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        sampler.asked = doc  # lm-eval tells a sampler only of questions of its own split
        return plain(doc, *args, **kwargs)

    task.fewshot_context = context
