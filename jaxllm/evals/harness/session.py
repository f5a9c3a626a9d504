"""Reads tasks of lm-evaluation-harness and models, and puts the tasks' questions to a model."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jaxllm.core.config import MeshConfig
from jaxllm.core.display import Display, short
from jaxllm.core.errors import UserError, naming_memory
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.core.paths import path, shortest_names
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.extras import need
from jaxllm.evals.harness.find import find_tasks
from jaxllm.evals.harness.variants import SIMILAR, Variant, variant
from jaxllm.evals.retrieval.base import BM25, MakeIndex, retriever
from jaxllm.evals.retrieval.passages import Passages
from jaxllm.evals.scoring.follow import Tell, following, nobody
from jaxllm.evals.scoring.scorer import Counts
from jaxllm.generate.defaults import read_defaults
from jaxllm.generate.steps import TokenRules
from jaxllm.models.hf.importer import is_hf_folder
from jaxllm.models.load import Model, SavedModel, find_model
from jaxllm.nn.compute import make_compute

if TYPE_CHECKING:
    from jaxllm.evals.harness.adapter import JaxLM

MEMORY = "Lower --batch_size or --sequence_length."
OPEN = "open"  # what other hosts are told beside the calls of JaxLM
SEED = 1234  # of few-shot examples, lm-eval's own default


@dataclass(frozen=True)
class Settings:
    """How tasks are asked."""

    include: tuple[str, ...] = ()  # folders of task files
    task_data: str = ""  # folder of local data
    download: bool = False  # whether data may come from the Hugging Face hub
    num_fewshot: int = -1  # examples before each question; -1: as the task says
    limit: int = 0  # examples of a task; 0: all
    chat: bool = False  # questions as a conversation, few-shot examples as its turns
    batch_size: int = 16
    sequence_length: int = 0  # tokens of a context; 0: the model's own
    contamination: tuple[str, ...] = ()  # prepared folders that may hold the questions
    retrieve_from: str = ""  # text in which ' + retrieval' looks passages up
    passages: int = 3  # of them before a question
    retriever: str = ""  # bm25 ("") or a model whose embeddings find passages and similar examples


class Asked(NamedTuple):
    """What a model answered, and what that took."""

    samples: dict[str, list[dict[str, Any]]]  # lm-eval's, by task
    seconds: float
    tokens: int  # of all contexts and continuations
    targets: int  # of all continuations
    requests: int
    compiled: int  # programs


class Plan(NamedTuple):
    """Models to evaluate, and where tasks are loaded from."""

    manager: Any  # lm-eval's TaskManager
    models: list[tuple[str, Variant, SavedModel]]  # with the title in tables
    passages: Passages | None
    make_index: MakeIndex | None  # where something is looked up


def plan(
    models: Sequence[str], tasks: Sequence[str], display: Display, settings: Settings
) -> Plan:
    """Finds models, tasks and passages, so that mistakes are told before anything is computed.

    Raises:
      UserError: see `find_tasks`; also no such model, `retrieval` without text, a retriever that
        finds nothing for any model, or a model that retrieves on one of several hosts.
    """
    _quiet()
    asked = [variant(name) for name in models]
    if any(each.retrieval for each in asked) != bool(settings.retrieve_from):
        raise UserError(
            "' + retrieval' after a model and --retrieve_from=TEXT go together: the one says for "
            "which model, the other in which text or folder of text passages are looked up."
        )
    looks_up = any(each.retrieval or each.kind == SIMILAR for each in asked)
    if settings.retriever and not looks_up:
        raise UserError(
            f"--retriever={settings.retriever} has no effect: it finds passages for a model that "
            "' + retrieval' follows, and examples for one that ' + N-shot similar' follows."
        )
    if jax.process_count() > 1 and settings.retriever not in ("", BM25):
        raise UserError(
            f"--retriever={settings.retriever} embeds on one host, and this is a job of "
            f"{jax.process_count()}: leave it out for BM25, or start it on one host."
        )
    with display.phase("finding tasks"):
        manager = find_tasks(tasks, settings.include, settings.task_data, settings.download)
    saved = [find_model(each.model) for each in asked]
    distinct = list(dict.fromkeys(each.model for each in asked))
    short_of = dict(zip(distinct, shortest_names([path(m) for m in distinct]), strict=True))
    titles = [short_of[each.model] + each.suffix for each in asked]
    make = passages = None
    if looks_up:
        make = retriever(settings.retriever, settings.batch_size, display)
    if settings.retrieve_from:
        with display.phase("indexing passages"):
            passages = Passages(settings.retrieve_from, make)
    return Plan(manager, list(zip(titles, asked, saved, strict=True)), passages, make)


def _quiet() -> None:
    """The display says what is done: lm-eval's and datasets' own bars and lines stay out."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    need("datasets", "--tasks").disable_progress_bars()
    for name in ("lm_eval", "lm_eval.api.task", "lm_eval.tasks"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_tasks(
    planned: Plan, names: Sequence[str], settings: Settings, asked: Variant
) -> dict[str, Any]:
    """lm-eval's tasks, with the examples and passages that the variant is shown.

    Raises:
      UserError: data or a task file that cannot be read, or a task that runs code.
    """
    from jaxllm.evals.harness.examples import choose_examples
    from jaxllm.evals.harness.retrieved import put_passages

    shots = settings.num_fewshot if asked.count < 0 else asked.count
    try:
        loaded = planned.manager.load(list(names))
    except UserError:
        raise
    except Exception as error:  # a task file is code of its author
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"--tasks={','.join(names)}: its data or its task file cannot be read "
            f"({type(error).__name__}: {reason})."
        ) from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or task.config.unsafe_code:
            raise UserError(
                f"--tasks: {name} runs what the model writes as code, without a sandbox. Use "
                "--problems=FILE, which has one."
            )
        own = task.get_config("num_fewshot")
        if shots >= 0 and own != 0:  # 0 in a task file is meant
            task.set_config(key="num_fewshot", value=shots)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        choose_examples(task, asked.kind, planned.make_index)
        if asked.retrieval and planned.passages:
            put_passages(task, planned.passages, settings.passages)
        task.set_fewshot_seed(seed=SEED)
    return loaded


class Opened(NamedTuple):
    """A model in memory with what it reads and writes by."""

    model: Model
    tokenizer: Tokenizer
    rules: TokenRules  # what ends a text


def read_model(saved: SavedModel, title: str, display: Display) -> Opened:
    """The model, spread over all devices."""
    gc.collect()  # a model that was asked before is in a circle of references
    with display.phase(f"reading {title}"):
        model = saved.load(make_compute(Sharding(make_mesh(MeshConfig()))), display.warn)
    tokenizer, rules = saved.load_tokenizer(), None
    if is_hf_folder(saved.name):
        rules = read_defaults(saved.name, model.config, lambda text: None).rules
    ends = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    return Opened(model, tokenizer, rules or TokenRules(ends))


def open_model(
    saved: SavedModel, title: str, display: Display, settings: Settings, tell: Tell = nobody
) -> JaxLM:
    """The model as lm-eval wants one; `tell` is how other hosts hear of it.

    Raises:
      UserError: it generates no text, or has no such context.
    """
    from jaxllm.evals.harness.adapter import JaxLM

    tell(OPEN, saved.name, saved.fingerprint if jax.process_count() > 1 else "")
    length = settings.sequence_length or _length(saved)
    saved.config.check_length(length, "sequence_length")
    model, tokenizer, rules = read_model(saved, title, display)
    return JaxLM(
        model, tokenizer, display, batch_size=settings.batch_size, max_length=length, rules=rules,
        tell=tell,
    )


def follow(display: Display, settings: Settings) -> None:
    """What the processes of other hosts do while process 0 evaluates: what it tells them.

    Raises:
      UserError: a model is another one here than there.
    """
    lm = None
    for call, arguments in following():
        if call == OPEN:
            lm, [name, wanted] = None, arguments  # the memory of the model before is needed
            saved = find_model(name)
            if saved.fingerprint != wanted:
                raise UserError(
                    f"model={name!r} has other parameters on the host of process "
                    f"{jax.process_index()} than on that of process 0 (fingerprint "
                    f"{saved.fingerprint[:12]}, not {wanted[:12]}): give every host the same "
                    "folder, and name a run that is still training by its step, RUN@STEP."
                )
            lm = open_model(saved, name, display, settings)
            continue
        with naming_memory(_size(lm, settings), MEMORY):
            lm.repeat(call, arguments)


def ask(
    lm: JaxLM, title: str, loaded: Mapping[str, Any], display: Display, settings: Settings
) -> Asked:
    """A model's answers on loaded tasks; counts and seconds go to the display."""
    from lm_eval.evaluator import evaluate

    from jaxllm.evals.harness.adapter import allowed

    lm.allowed = allowed({task.OUTPUT_TYPE for task in loaded["tasks"].values()})
    length, counts = lm.max_length, lm.scorer.counts
    before = _so_far(counts)
    begin = time.monotonic()
    with naming_memory(_size(lm, settings), MEMORY):
        results = evaluate(
            lm=lm, task_dict=loaded, limit=settings.limit or None, bootstrap_iters=0,
            apply_chat_template=settings.chat, fewshot_as_multiturn=settings.chat,
        )
    seconds = time.monotonic() - begin
    requests, tokens, targets, computed, truncated, compiled = (
        now - then for now, then in zip(_so_far(counts), before, strict=True)
    )
    display.message(
        f"{title}: {requests:,} requests in {seconds:.0f} s, {compiled} programs compiled, "
        f"{short(computed / seconds)} tokens/s computed for {short(tokens / seconds)} tokens/s "
        "asked"
    )
    if truncated:
        display.warn(
            f"{title}: {truncated} of {requests} requests are longer than the context of {length} "
            "tokens and lost their beginning"
        )
    return Asked(results["samples"], seconds, tokens, targets, requests, compiled)


def _size(lm: JaxLM, settings: Settings) -> str:
    return f"A batch of batch_size={settings.batch_size} rows of {lm.max_length} tokens"


def _so_far(counts: Counts) -> tuple[int, ...]:
    return (
        counts.requests, counts.tokens, counts.targets, counts.computed, counts.truncated,
        counts.compiles,
    )


def _length(saved: SavedModel) -> int:
    """The context of a model: what it was trained with, or has positions for."""
    most = saved.config.positions.max_length
    if saved.run:
        return saved.data.sequence_length
    return most if saved.config.positions.kind != "relative" else saved.data.sequence_length
