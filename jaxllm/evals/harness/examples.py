"""In-context examples as an option of any task: the baseline that no parameter is tuned for.

`RUN + 5-shot similar` is the model RUN with five examples before each question: `fixed` ones (the
first), `random` ones (drawn anew for each question, alike in every evaluation), or `similar` ones,
whose questions have the words of the asked one (BM25, Robertson and Zaragoza 2009), the most
similar last. The asked question is never among the fixed and similar ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.api.samplers import ContextSampler, FirstNSampler

from jaxllm.core.errors import UserError, nearest
from jaxllm.evals.extras import need

KINDS = ("fixed", "random", "similar")
_VARIANT = re.compile(r"(?P<model>.+?)\s+\+\s+(?P<count>\d+)-shot(?:\s+(?P<kind>\S+))?\s*")


class Variant(NamedTuple):
    """A model and the examples that it is shown."""

    model: str
    count: int = -1  # -1: as the other settings say
    kind: str = ""  # "": as the task says

    @property
    def suffix(self) -> str:
        """What tells it from the model alone."""
        shots = f" + {self.count}-shot" if self.count >= 0 else ""
        return f"{shots} {self.kind}".rstrip() if shots else ""


def variant(name: str) -> Variant:
    """What an entry of `--model` means.

    Raises:
      UserError: it has " + " and then something else than a number of examples.
    """
    if found := _VARIANT.fullmatch(name):
        kind = found["kind"] or ""
        if kind not in ("", *KINDS):
            raise UserError(
                f"model={name!r}: {kind!r} examples are unknown. {nearest(kind, KINDS)}"
            )
        return Variant(found["model"], int(found["count"]), kind)
    if " + " in name:
        raise UserError(
            f"model={name!r}: after ' + ' comes a number of examples, such as '5-shot' or "
            f"'5-shot similar' (or {', '.join(KINDS)})."
        )
    return Variant(name)


class _Similar(ContextSampler):
    """The examples whose questions are likest to the asked one."""

    def __init__(self, documents: Sequence[Mapping[str, Any]], task: Any):
        super().__init__(documents)
        self._library, self._task = need("bm25s", "similar examples"), task
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
