"""A model of ours as lm-evaluation-harness wants one.

Prompts, special tokens and truncation follow its `hf` backend, so that a model gives the same
scores here as there. The module imports lm-eval, of the extra `eval`: import it where it is needed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.scoring.follow import Tell, nobody
from jaxllm.evals.scoring.rows import Request
from jaxllm.evals.scoring.scorer import Scorer
from jaxllm.evals.scoring.writer import Wanted, Writer
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import TokenRules, check_writes, start_id
from jaxllm.models.load import Model

NEW_TOKENS = 256  # generated where a task does not say how many, as in the hf backend
EVERY = 15.0  # seconds between two lines of progress in a log
PROGRAMS = 12  # that a run compiles at most


class Allowed(NamedTuple):
    """Programs that each kind of request may compile."""

    scoring: int = 10
    rolling: int = 4
    generating: int = 6


def allowed(kinds: Collection[str]) -> Allowed:
    """What tasks of these output types may compile: `PROGRAMS` in all, of one kind fewer.

    Each kind of sampling takes two programs at least, so that tasks that sample in more ways than
    there are pairs of programs take more.
    """
    rolls, writes = "loglikelihood_rolling" in kinds, "generate_until" in kinds
    scores = bool({"loglikelihood", "multiple_choice"} & set(kinds))
    usual = Allowed()
    rolling = 2 if scores or writes else usual.rolling
    generating = 4 if scores or rolls else usual.generating
    others = rolls * rolling + writes * generating
    return Allowed(min(usual.scoring, PROGRAMS - others), rolling, generating)


class JaxLM(TemplateLM):
    """Scores and continues texts with a language model, batched by length."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, display: Display, *, batch_size: int,
        max_length: int, rules: TokenRules | None = None, tell: Tell = nobody,
    ):
        """`rules` are what ends a text where the model's folder says it; `tell` is how the
        processes of other hosts hear what they are to `repeat`.

        Raises:
          UserError: the model generates no text, or its tokenizer has no token to begin with.
        """
        super().__init__()
        check_writes(model.config)
        if tokenizer.eos_id is None and tokenizer.bos_id is None:
            raise UserError(
                f"The tokenizer ({tokenizer.kind}) has neither a beginning nor an end of text: a "
                "text without a context has nothing to be predicted from. Use a tokenizer with one."
            )
        self.paired = model.config.architecture == "encoder_decoder"
        self.backend = "seq2seq" if self.paired else "causal"
        self.max_length, self.batch_size = max_length, batch_size
        self._model, self._own, self._display = model, tokenizer, display
        eos = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
        self._rules = rules or TokenRules(eos)
        start = start_id(model.config, tokenizer) if self.paired else 0
        self.scorer = Scorer(
            model, batch_size=batch_size, max_length=max_length, start_id=start, tell=tell
        )
        self._writer = Writer(
            model, tokenizer, self._rules, batch_size=batch_size, start_id=start,
            counts=self.scorer.counts, tell=tell,
        )
        self.allowed = Allowed()
        self._encoded = functools.lru_cache(4096)(self._encode)

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._own

    @property
    def rules(self) -> TokenRules:
        """What ends a text."""
        return self._rules

    @property
    def step(self) -> int:
        """Updates that the model had."""
        return self._model.step

    @property
    def eot_token_id(self) -> int:
        """The end of text."""
        return self._own.bos_id if self._own.eos_id is None else self._own.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is predicted from: the beginning of text, if there is."""
        return self.eot_token_id if self._own.bos_id is None else self._own.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Tells tokenizers apart."""
        return f"{self._own.kind}-{self._own.hash[:12]}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """A text's ids, wrapped as the tokenizer's family does unless told otherwise."""
        return list(self._encoded(string, add_special_tokens is not False))

    def _encode(self, string: str, wrapped: bool) -> tuple[int, ...]:
        ids = self._own.encode(string)
        if not wrapped:
            return tuple(ids)
        around = self._own.with_special_tokens(ids)[0]
        begins = self._own.bos_id is not None and ids[:1] == [self._own.bos_id]
        if begins and around[:2] == [self._own.bos_id] * 2:  # a chat template wrote one
            return tuple(around[1:])
        return tuple(around)

    def loglikelihood(
        self, requests: Sequence, disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether it is the likeliest) of each continuation."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        programs = kwargs.get("programs", self.allowed.scoring)
        pairs = [Request(context, continuation) for _, context, continuation in requests]
        with self._progress("scoring", len(pairs)) as told:
            scored = self.scorer.score(pairs, told, programs)
        answers = [(each.total, bool(each.greedy.all())) for each in scored]
        for (texts, *_), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence, disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each text, window after window, each token once."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            for pair in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(pair)))
                owners.append(number)
        totals = np.zeros(len(requests))
        scores = self._loglikelihood_tokens(windows, programs=self.allowed.rolling)
        np.add.at(totals, owners, [total for total, _ in scores])
        for request, total in zip(requests, totals.tolist(), strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals.tolist()

    def generate_until(self, requests: Sequence, disable_tqdm: bool = False) -> list[str]:
        """A continuation of each prompt, up to its stop strings."""
        texts: list[str] = [""] * len(requests)
        groups: dict[tuple, list[tuple[int, Wanted]]] = {}
        cut: set[int] = set()
        for number, request in enumerate(requests):
            prompt, settings = request.args
            limit, sampling, stop = _settings(settings)
            if not self.paired and limit >= self.max_length:
                cut.add(limit)
                limit = self.max_length // 2
            # a forced last token falls on the limit of all rows of a batch
            key = (sampling, 0 if self._rules.last_id is None else limit)
            groups.setdefault(key, []).append((number, self._wanted(prompt, limit, stop)))
        for limit in sorted(cut):
            self._display.warn(
                f"a task wants {limit} new tokens and the context is {self.max_length}: half of "
                "it is generated"
            )
        lengths = max(1, self.allowed.generating // 2 // len(groups)) if groups else 1
        with self._progress("generating", len(requests)) as told:
            for (sampling, _), members in groups.items():
                wanted = [each for _, each in members]
                for place, row in self._writer.write(
                    wanted, sampling, lengths=lengths, apart=True
                ):
                    number = members[place][0]
                    texts[number] = row.text
                    self.cache_hook.add_partial("generate_until", requests[number].args, row.text)
                    told(1)
        return texts

    def _wanted(self, prompt: str, limit: int, stop: Sequence[str]) -> Wanted:
        """The end of a prompt, as much as there is room for."""
        room = self.max_length if self.paired else self.max_length - limit
        ids = self.tok_encode(prompt) or [self.prefix_token_id]
        self.scorer.counts.requests += 1
        self.scorer.counts.truncated += len(ids) > room
        return Wanted(ids[-room:], limit, stop)

    def repeat(self, call: str, arguments: Sequence[Any]) -> None:
        """Does what another process told of its scores or texts."""
        {"score": self.scorer.repeat, "write": self._writer.repeat}[call](*arguments)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template, "" where there is none."""
        return self._own.chat_template or ""

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation's text; without a generation prompt its last message goes on."""
        text = self._own.apply_chat_template(
            chat_history, add_generation_prompt=add_generation_prompt
        )
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def _progress(self, what: str, total: int):
        return _Progress(self._display, what, total)


class _Progress:
    """Counts requests on the display; a context that gives what to tell them to."""

    def __init__(self, display: Display, what: str, total: int):
        self._display, self._what, self._total = display, what, total
        self._done, self._shown = 0, time.monotonic()

    def __enter__(self) -> Callable[[int], None]:
        self._display.start(self._what, self._total)
        return self._told

    def __exit__(self, *error: object) -> None:
        pass

    def _told(self, count: int) -> None:
        self._done += count
        if self._display.live or time.monotonic() - self._shown > EVERY:
            self._shown = time.monotonic()
            self._display.update(self._done)


def _settings(given: Mapping[str, Any]) -> tuple[int, Sampling, list[str]]:
    """(new tokens, how they are drawn, stop strings) of a task's generation_kwargs."""
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    limit = next((given[name] for name in names if given.get(name)), NEW_TOKENS)
    until = given.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    temperature = float(given.get("temperature") or 0.0)
    drawn = given.get("do_sample", temperature > 0)
    sampling = Sampling(temperature=0.0) if not drawn else Sampling(
        temperature or 1.0, int(given.get("top_k") or 0), float(given.get("top_p") or 1.0),
    )
    return int(limit), sampling, [each for each in stop if each]
