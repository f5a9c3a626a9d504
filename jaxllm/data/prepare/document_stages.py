"""The pass of all stages that see one document at a time."""

from __future__ import annotations

import functools
from typing import Any

from jaxllm.data.prepare.config import CORPUS_STAGES, MODULES, PrepareConfig, stage_settings
from jaxllm.data.prepare.documents import Document, replaced
from jaxllm.data.prepare.flow import Row, Samples, size_of
from jaxllm.data.prepare.stages.base import Dropped, Stage, View
from jaxllm.data.prepare.work import Work

BLANK = Dropped("blank")  # what a stage leaves nothing of


class DocumentStages:
    """Runs the stages in the order of the configuration."""

    name, drops = "the document stages", True

    def __init__(self, config: PrepareConfig):
        self._config = config

    def collector(self, work: Work) -> None:
        """There is no index: a stage knows no other document."""

    def decide(self, work: Work, level: int, run: Any) -> None:
        """There is nothing to decide beforehand."""

    def applied(self, work: Work, level: int, chunk: int) -> Staged:
        return Staged([
            (name, _stage(name, stage_settings(self._config, name)))
            for name in self._config.stages if name not in CORPUS_STAGES
        ])


class Staged:
    """The documents of one chunk on their way through the stages."""

    def __init__(self, stages: list[tuple[str, Stage]]):
        self._stages = [stage for _, stage in stages]
        self.rows = [Row(name) for name, _ in stages]

    def __call__(self, number: int, document: Document, samples: Samples) -> list[Document]:
        view, size = View(document.text), size_of(document.text)
        for stage, row in zip(self._stages, self.rows, strict=True):
            row.before.add(size)
            outcome = stage(view)
            if not isinstance(outcome, Dropped) and not outcome.text.strip():
                outcome = BLANK
            if isinstance(outcome, Dropped):
                row.drop(outcome.reason, size)
                samples.add(row.stage, outcome.reason, replaced(document, view.text))
                return []
            row.change(outcome.changes)
            if outcome.text != view.text:
                view, size = View(outcome.text), size_of(outcome.text)
            row.after.add(size)
        return [replaced(document, view.text)]


@functools.lru_cache(maxsize=64)
def _stage(name: str, settings: Any) -> Stage:
    """Made once a process: some load a model or a list of words."""
    return MODULES[name].make(settings)
