"""BLEU of a corpus by sacrebleu with its default settings, from 0 to 100."""

from __future__ import annotations

from jaxllm.evals.translation import CorpusScore

_SCORE = CorpusScore("BLEU")
signature, statistics, finish = _SCORE.signature, _SCORE.statistics, _SCORE.finish
