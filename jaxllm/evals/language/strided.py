"""Loss of whole documents by overlapping windows: every token once, with a long context.

A window of `window` tokens moves on by `stride` tokens and scores those that no window before it
scored, so that each but the first of a document is predicted from at least window - stride + 1
tokens, as far as there are so many before it; the last window ends with the document. Documents
begin with the tokenizer's beginning (or end) of text, so that their first token counts too. The
loss covers all bytes of the text then, and bits per byte and perplexity per word or byte compare
models with different tokenizers: the text is decoded with the data's tokenizer and encoded with
the model's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxllm.core.config import MeshConfig
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError, naming_memory
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.core.paths import path, shortest_names
from jaxllm.core.rundir import Record, append_records
from jaxllm.data.sources import TokenSource
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.bootstrap import Score, scores
from jaxllm.evals.documents import documents
from jaxllm.evals.scoring.rows import Request
from jaxllm.evals.scoring.scorer import Scorer
from jaxllm.models.config import LANGUAGE_HEADS
from jaxllm.models.load import SavedModel, find_model
from jaxllm.nn.compute import make_compute

ALL = "all"  # the row of all sources together
AT_ONCE = 2**24  # tokens of windows that are planned together
MEMORY = "Lower --batch_size or --sequence_length."
STATISTICS = ("nats", "tokens", "words", "bytes")  # of a document


@dataclasses.dataclass(frozen=True)
class SourceScores:
    """What a model makes of the documents of a source."""

    model: str
    source: str
    documents: int
    tokens: int
    scores: Mapping[str, Score]  # loss, perplexity, word_perplexity, byte_perplexity, …


def evaluate_strided(
    models: Sequence[str], data: Sequence[str], display: Display, *, stride: int,
    batch_size: int = 16, sequence_length: int = 0, split: str = "validation",
) -> list[SourceScores]:
    """Every model on every prepared folder, and on all of them together.

    `sequence_length` is the window; 0 takes each model's own. The scores also go into the metrics
    of a model's run directory as `eval/FOLDER/strided`.

    Raises:
      UserError: no such model or data, a stride beyond the window, a model that does not read from
        left to right, or a tokenizer without a beginning and an end of text.
    """
    if jax.process_count() > 1:
        raise UserError("--stride runs on one host: start it on one host with its own devices.")
    folders = list(dict.fromkeys(path(folder) for folder in data))
    models = list(dict.fromkeys(models))
    names, titles = shortest_names(folders), shortest_names([path(name) for name in models])
    found = []
    for name, title in zip(models, titles, strict=True):
        saved = find_model(name)
        window = sequence_length or saved.data.sequence_length
        prefix, tokenizer = _checked(saved, window, stride)
        with display.phase(f"reading {title}"):
            model = saved.load(make_compute(Sharding(make_mesh(MeshConfig()))), display.warn)
        scorer = Scorer(model, batch_size=batch_size, max_length=window)
        rows = {}
        for folder, source_name in zip(folders, names, strict=True):
            source = TokenSource(str(folder), split)
            size = f"A batch of batch_size={batch_size} rows of {window} tokens"
            with display.phase(f"{title} on {source_name}"), naming_memory(size, MEMORY):
                texts = documents(source, source.load_tokenizer())
                rows[source_name] = _statistics(scorer, tokenizer, texts, prefix, window, stride)
            if not len(rows[source_name]):
                raise UserError(f"The split {split!r} of {folder} has no text to score.")
        if len(rows) > 1:
            rows[ALL] = np.concatenate(list(rows.values()))
        mine = [_scores(title, each, table) for each, table in rows.items()]
        if saved.run:
            append_records(saved.run, [_record(each, model.step, window, stride) for each in mine])
        found += mine
    return found


def table(found: Sequence[SourceScores], field: str) -> tuple[list[str], list[list]]:
    """Columns and rows: a row per source, a column per model, values with their intervals."""
    models = list(dict.fromkeys(each.model for each in found))
    rows: dict[str, dict[str, Score]] = {}
    for each in found:
        rows.setdefault(each.source, {})[each.model] = each.scores[field]
    return ["source", "documents", *models], [
        [source, next(iter(by.values())).n,
         *(f"{by[m].value:.4f} [{by[m].low:.4f}, {by[m].high:.4f}]" for m in models)]
        for source, by in rows.items()
    ]


def windows(ids: Sequence[int], prefix: int, window: int, stride: int) -> Iterator[Request]:
    """The windows of a document, as what precedes the scored tokens and those tokens."""
    row, done = [prefix, *ids], 0  # row[i] predicts ids[i]
    while done < len(ids):
        end = min(window if done == 0 else done + stride, len(ids))
        tokens = row[max(0, end - window) : end + 1]
        scored = end - done
        yield Request(tokens[: len(tokens) - scored], tokens[len(tokens) - scored :])
        done = end


def finish(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of sums of a document's statistics [R, 4]."""
    nats, tokens, words, bytes_ = sums.T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return {
            "loss": nats / tokens, "perplexity": np.exp(nats / tokens),
            "word_perplexity": np.exp(nats / words), "byte_perplexity": np.exp(nats / bytes_),
            "bits_per_byte": nats / bytes_ / math.log(2),
        }


def _checked(saved: SavedModel, window: int, stride: int) -> tuple[int, Tokenizer]:
    """The token before every document, and the tokenizer."""
    config = saved.config
    if config.architecture != "decoder" or config.head.kind not in LANGUAGE_HEADS:
        raise UserError(
            f"model={saved.name!r} has model.architecture={config.architecture!r} and "
            f"model.head.kind={config.head.kind!r}: --stride scores text from left to right, which "
            "a decoder with a head of kind 'lm' does. Leave --stride out."
        )
    if not 1 <= stride <= window:
        raise UserError(
            f"--stride={stride} must be at least 1 and at most the window, which has {window} "
            "tokens (--sequence_length)."
        )
    config.check_length(window, "sequence_length")
    tokenizer = saved.load_tokenizer()
    prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if prefix is None:
        raise UserError(
            f"The tokenizer of {saved.name} has neither a beginning nor an end of text to predict "
            "a document's first token from: leave --stride out."
        )
    return prefix, tokenizer


def _statistics(
    scorer: Scorer, tokenizer: Tokenizer, texts: Iterator[str], prefix: int, window: int,
    stride: int,
) -> np.ndarray:
    """[documents, 4]: negative log-likelihood, tokens, words and bytes."""
    rows: list[list[float]] = []
    requests: list[Request] = []
    owners: list[int] = []

    def flush() -> None:
        for owner, scored in zip(owners, scorer.score(requests), strict=True):
            rows[owner][0] -= scored.total
        requests.clear()
        owners.clear()

    held = 0
    for text in texts:
        ids = tokenizer.encode(text)
        if not ids:
            continue
        for request in windows(ids, prefix, window, stride):
            requests.append(request)
            owners.append(len(rows))
            held += len(request.context) + len(request.continuation)
        rows.append([0.0, len(ids), len(text.split()), len(text.encode())])
        if held > AT_ONCE:
            flush()
            held = 0
    flush()
    return np.asarray(rows, np.float64).reshape(-1, len(STATISTICS))


def _scores(model: str, source: str, rows: np.ndarray) -> SourceScores:
    return SourceScores(model, source, len(rows), int(rows[:, 1].sum()), scores(rows, finish))


def _record(each: SourceScores, step: int, window: int, stride: int) -> Record:
    record: Record = {
        "step": step, "split": f"eval/{each.source}/strided", "documents": each.documents,
        "tokens": each.tokens, "sequence_length": window, "stride": stride,
    }
    for name, score in each.scores.items():
        for end, value in (("", score.value), ("_low", score.low), ("_high", score.high)):
            record[name + end] = value if math.isfinite(value) else None
    return record
