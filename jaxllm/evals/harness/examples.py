"""In-context examples as an option of any task: the baseline that no parameter is tuned for.

`RUN + 5-shot similar` is the model RUN with five examples before each question: `fixed` ones (the
first), `random` ones (drawn anew for each question, alike in every evaluation), or `similar` ones,
whose questions have the words of the asked one (BM25, Robertson and Zaragoza 2009), the most
similar last. The asked question is never among the fixed and similar ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler, FirstNSampler

from jaxllm.core.errors import UserError
from jaxllm.evals.retrieval import bm25


class _Similar(ContextSampler):
    """The examples whose questions are likest to the asked one."""

    def __init__(self, documents: Sequence[Mapping[str, Any]], task: Any):
        super().__init__(documents)
        self._library, self._task = bm25("similar examples"), task
        self._index = self._library.BM25()
        texts = [str(task.doc_to_text(document)) for document in documents]
        self._index.index(self._words(texts), show_progress=False)
        self.asked: Mapping[str, Any] | None = None

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **kwargs: Any) -> list:
        """The `n` most similar examples, the most similar last."""
        words = self._words([str(self._task.doc_to_text(self.asked))])
        most = min(len(self.df), n + 8)  # room for copies of the question itself
        found = self._index.retrieve(words, k=most, show_progress=False).documents[0]
        others = [self.df[i] for i in found if self.df[i] != self.asked]
        return others[:n][::-1]

    def _words(self, texts: list[str]) -> Any:
        return self._library.tokenize(texts, stopwords=None, show_progress=False)


def choose_examples(task: Any, kind: str) -> None:
    """Makes a task of lm-eval take its examples in this way ("" leaves it as it is).

    Raises:
      UserError: the task has no examples to take.
    """
    if not kind:
        return
    if not hasattr(task, "sampler"):
        raise UserError(f"--tasks: {task.task_name} has no examples that could be shown.")
    documents = list(task.sampler.fewshot_docs())
    if kind != "similar":
        task.sampler = (FirstNSampler if kind == "fixed" else ContextSampler)(documents)
        return
    task.sampler = sampler = _Similar(documents, task)
    plain = task.fewshot_context

    def context(doc: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        sampler.asked = doc  # lm-eval tells a sampler only of questions of its own split
        return plain(doc, *args, **kwargs)

    task.fewshot_context = context
