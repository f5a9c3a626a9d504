"""What a user says of data, hardware and goal, and what is reckoned from it before rules are asked.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from jaxllm.core.display import short
from jaxllm.core.errors import UserError, unknown
from jaxllm.models.config import ModelConfig, preset, presets
from jaxllm.plan.flops import Lengths
from jaxllm.plan.search import hbm
from jaxllm.plan.shapes import ModelShape, model_shape
from jaxllm.plan.slices import Slice
from jaxllm.plan.tuning import Cost, cost, find_machine
from jaxllm.plan.workload import Workload

EPOCHS = 3  # over rows (transformers' default)
REPLAYED = 0.1  # of continued pre-training, general text (configs/tune/domain.py)
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022
MOST_EPOCHS = 4  # repeated text is nearly as good as new (Muennighoff et al. 2023)
SHOTS = 8  # examples in a prompt
DECODER = "llama3.1_8b"  # where a text is to be written and no model is named
PREFILL, DECODE = 0.4, 0.6  # shares of the peak and of the memory's bandwidth when a model is used
ROWS = 32  # of a step
# The encoder of configs/tune/banking77.py, and the share of a peak that so small a model reaches.
SMALL, SMALL_EPOCHS, SMALL_SHARE = 1e6, 20, 0.3
ASSUMED_VOCABULARY = 32_000


@dataclass(frozen=True)
class Goal:
    """What the model is for."""

    what: str
    model: str  # preset, where none is named
    length: int  # tokens of a training row
    tokens: int  # of an example, packed rows counted without padding
    answer: int  # tokens that are written at use; 0: scores only
    recipe: str  # that trains on rows
    rows: str  # its source of rows


GOALS = {
    "classify": Goal("sort texts into classes", "bert_base_uncased", 128, 64, 0,
                     "configs/tune/banking77.py:pretrained", "intents"),
    "extract": Goal("find names and terms in texts", "bert_base_cased", 128, 64, 0,
                    "configs/tune/wnut17.py", "entities"),
    "chat": Goal("follow instructions, converse, write in a style", DECODER, 1024, 400, 200,
                 "configs/tune/instruct.py", "rows"),
    "transform": Goal("summarise, translate, rewrite", "t5_base", 512, 512, 100,
                      "configs/tune/summarize.py", "pairs"),
    "answer": Goal("answer questions about documents", DECODER, 1024, 600, 150,
                   "configs/tune/instruct.py", "rows"),
    "domain": Goal("know a field and its language", DECODER, 2048, 400, 200,
                   "configs/tune/domain_instruct.py", "rows"),
    "language": Goal("a language that no model covers", DECODER, 1024, 400, 200,
                     "configs/tune/instruct.py", "rows"),
}
ALIASES = {
    "classification": "classify", "sentiment": "classify", "intent": "classify",
    "ner": "extract", "tag": "extract", "instruct": "chat", "instructions": "chat",
    "style": "chat", "assistant": "chat", "summarise": "transform", "summarize": "transform",
    "translate": "transform", "rewrite": "transform", "qa": "answer", "question": "answer",
    "documents": "answer", "pretrain": "language",
}


OBJECTIVES = {  # of recipes, by the goal that they mostly serve
    "classification": "classify", "token_classification": "extract", "sft": "chat",
    "seq2seq": "transform",
}


def goal_of(objective: str, has_base: bool) -> str:
    """The goal of a recipe with this `data.objective`, on running text if it is not one of rows."""
    return OBJECTIVES.get(objective, "domain" if has_base else "language")


@dataclass(frozen=True)
class Situation:
    """The user's answers; 0 and "": not said."""

    goal: str
    examples: int = 0  # labelled rows, conversations or pairs
    domain_tokens: float = 0.0  # of running text, or of documents
    model: str = ""  # a preset
    parameters: float = 0.0  # instead of a model: the nearest preset
    hardware: str = "cpu"
    memory: float = 0.0  # GB of a device
    latency: float = 0.0  # milliseconds that an answer may take

    def checked(self) -> Situation:
        """The same with the goal under its own name.

        Raises:
          UserError: an unknown goal or model, or numbers that mean nothing.
        """
        goal = ALIASES.get(self.goal, self.goal)
        if goal not in GOALS:
            raise unknown("--goal", self.goal, (*GOALS, *ALIASES))
        for name in ("examples", "domain_tokens", "parameters", "memory", "latency"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"--{name}={value} must be a number of at least 0.")
        if self.model and self.parameters:
            raise UserError(
                f"--model={self.model} and --parameters={self.parameters:g}: give one of them."
            )
        if self.model:
            preset(self.model)
        return dataclasses.replace(self, goal=goal)


class Facts:
    """What follows from a checked situation; costs are reckoned when they are asked for."""

    def __init__(self, situation: Situation):
        """Raises UserError for an unknown machine."""
        self.said, self.goal = situation, GOALS[situation.goal]
        self.where: Slice = find_machine(situation.hardware, situation.memory)
        self.model_name = _model_name(situation, self.goal)
        self.shape = _shape(self.model_name)
        self.examples, self.tokens = situation.examples, situation.domain_tokens
        self.on_cpu = self.where.chip.name == "cpu"

    @property
    def config(self) -> ModelConfig:
        """Of the model that would be tuned."""
        return self.shape.config

    @property
    def parameters(self) -> int:
        """Of the model that would be tuned."""
        return self.shape.parameters

    @property
    def small(self) -> bool:
        """Whether from scratch means a small encoder, trained on the rows alone."""
        return self.said.goal in ("classify", "extract")

    @functools.cached_property
    def writer(self) -> str:
        """The decoder that would be asked with examples or documents in its prompt."""
        return self.model_name if self.config.architecture == "decoder" else DECODER

    @functools.cached_property
    def scratch_parameters(self) -> float:
        """Of a model that the text is enough for."""
        if self.small:
            return SMALL
        return max(self.tokens * MOST_EPOCHS / TOKENS_PER_PARAMETER, 1.0)

    def tuned(self, method: str) -> Cost:
        """What a step of the rows' recipe takes by this method."""
        return self._cost(method, self.goal.length, self.shape)

    @functools.lru_cache(None)  # noqa: B019 - facts live as long as one command
    def _cost(self, method: str, length: int, shape: ModelShape) -> Cost:
        return cost(self._work(shape, length), self.where, method)

    def continued(self) -> tuple[str, Cost]:
        """Continued pre-training: of all parameters, or by adapters where only those fit."""
        length = 512 if self.config.architecture != "decoder" else 2048
        for method in ("full", "lora", "qlora"):
            found = self._cost(method, length, self.shape)
            if found.fits:
                return method, found
        return "full", self._cost("full", length, self.shape)

    def from_scratch(self) -> Cost:
        """A model of the size that the text is enough for, by the nearest preset's speed."""
        return self._cost("full", 1024, _shape(nearest_preset(self.scratch_parameters)))

    def hours(self, approach: str) -> float:
        """Hours of training; 0 where nothing is trained."""
        if approach in ("lora", "qlora", "full"):
            tokens = EPOCHS * self.examples * self.goal.tokens
            return tokens / self.tuned(approach).tokens_per_second / 3600
        if approach == "continued":
            tokens = self.tokens / (1 - REPLAYED)
            return tokens / self.continued()[1].tokens_per_second / 3600
        if approach == "scratch":
            if self.small:
                flops = 6 * SMALL * SMALL_EPOCHS * self.examples * self.goal.tokens
                return flops / (SMALL_SHARE * self.where.chips * self.where.chip.peak_flops) / 3600
            speed = self.from_scratch().tokens_per_second / self.scratch_parameters
            size = _shape(nearest_preset(self.scratch_parameters)).parameters
            return MOST_EPOCHS * self.tokens / (speed * size) / 3600
        return 0.0

    def use_bytes(self, approach: str) -> float:
        """Bytes of all devices together that using the result takes: weights in bfloat16."""
        return 2.0 * self._used(approach).parameters * 1.1  # and the cache of keys and values

    def use_fits(self, approach: str) -> bool:
        """Whether the machine can hold what is used."""
        return self.use_bytes(approach) <= 0.9 * hbm(self.where) * self.where.devices

    def latency(self, approach: str) -> float:
        """Milliseconds of one answer on the machine, alone on it."""
        shape, goal = self._used(approach), self.goal
        prompt = goal.tokens
        if approach == "few_shot":
            prompt += SHOTS * goal.tokens
        if approach == "retrieval":
            prompt += 2000
        chip, count = self.where.chip, self.where.chips
        writes = max(goal.answer, 5 if shape.config.architecture == "decoder" else 0)
        seconds = 2 * shape.parameters * prompt / (PREFILL * chip.peak_flops * count)
        bytes_read = 2 * shape.parameters * writes
        return 1000 * (seconds + bytes_read / (DECODE * chip.hbm_bandwidth * count))

    def _used(self, approach: str) -> ModelShape:
        if approach in ("few_shot", "retrieval"):
            return _shape(self.writer)
        if approach == "scratch":
            return _shape(nearest_preset(self.scratch_parameters))
        return self.shape

    def _work(self, shape: ModelShape, length: int) -> Workload:
        lengths = Lengths(length)
        if shape.config.architecture == "encoder_decoder":
            lengths = Lengths(max(length // 4, 1), length)
        rows = math.lcm(ROWS, self.where.devices)
        size = 4 if self.on_cpu else 2
        return Workload(
            shape, lengths, rows, 1, 1000, "adamw", 4, 4, size, "xla" if self.on_cpu else "auto"
        )

    def words(self) -> dict[str, str]:
        """What reasons may name."""
        return {
            "model": self.model_name, "examples": f"{self.examples:,}",
            "tokens": short(self.tokens), "parameters": short(self.parameters),
            "hardware": self.where.name, "writer": self.writer,
            "size": short(self.scratch_parameters), "latency": f"{self.said.latency:g}",
        }


@functools.cache
def _shape(name: str) -> ModelShape:
    config = preset(name)
    if not config.vocab_size:
        config = dataclasses.replace(config, vocab_size=ASSUMED_VOCABULARY)
    return model_shape(config.completed())


def nearest_preset(parameters: float) -> str:
    """The decoder of Llama's or Qwen's family whose size is nearest."""
    names = [
        n for n in presets()
        if n.startswith(("llama", "qwen")) and "debug" not in n and "65b" not in n
    ]
    return min(names, key=lambda n: abs(math.log(_shape(n).parameters / max(parameters, 1e6))))


def _model_name(situation: Situation, goal: Goal) -> str:
    if situation.model:
        return situation.model
    return nearest_preset(situation.parameters) if situation.parameters else goal.model
