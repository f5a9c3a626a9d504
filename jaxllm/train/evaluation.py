"""What a run measures besides its own loss: validation, forgetting, and the evaluators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding, check_batch
from jaxllm.core.rundir import Record
from jaxllm.data.loader import TrainingData, Validation, ValidationData
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model
from jaxllm.train.config import Config
from jaxllm.train.evaluate import validation_record
from jaxllm.train.feed import local_rows
from jaxllm.train.forgetting import SPLIT, Guard, described, named
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import Setup, TrainState
from jaxllm.train.step import jit_eval_step
from jaxllm.train.tune import REPLAY


class Evaluator(Protocol):
    """What is measured at every evaluation besides the validation loss."""

    def check(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Raises UserError before training starts for what could not work after it."""

    def __call__(self, model: Model, tokenizer: Tokenizer) -> Iterable[Record]:
        """Records with "split" and values; "step" is added to them."""


# The evaluators of a run, given what it is measured on by the split of the records.
MakeEvaluators = Callable[[Mapping[str, Validation]], Sequence[Evaluator]]


class Evaluation:
    """The measurements of a run, and what its guard makes of them."""

    def __init__(
        self, config: Config, setup: Setup, options: LossOptions, data: TrainingData,
        make_evaluators: MakeEvaluators, display: Display,
    ):
        """Opens the validation data.

        Raises:
          UserError: a batch that the mesh does not divide, data that cannot be read, or what an
            evaluator cannot work with.
        """
        self._config, self._setup, self._display = config, setup, display
        self._tokenizer = data.load_tokenizer()
        self._size = config.eval.batch_size or config.data.global_batch_size
        check_batch(self._sharding, self._size, "--config.eval.batch_size")
        self._splits = _splits(config, data)
        self._step = jit_eval_step(setup, options)
        self.guard = Guard(config.tune.guard, [])
        self._evaluators = make_evaluators(self._splits)
        for evaluator in self._evaluators:
            evaluator.check(setup.model, self._tokenizer)

    @property
    def _sharding(self) -> Sharding:
        return self._setup.compute.sharding

    def resume(self, before: Sequence[Record], start: int) -> None:
        """Takes up what the run has measured so far, up to step `start`.

        Raises:
          UserError: data of the guard on which the base was not measured.
        """
        self.guard = Guard(self._config.tune.guard, before)
        for split in self._splits if start else ():
            if split.startswith(SPLIT) and not self.guard.knows(split):
                raise UserError(
                    f"tune.guard.data has {split.removeprefix(SPLIT)!r} since this run stands at "
                    f"step {start:,}: on it the base was not measured, so nothing can be told. "
                    "Leave it out, or start another --workdir."
                )
        self._done = {r["step"] for r in before if r["split"].split("/")[0] == "validation"}

    def due(self, step: int) -> bool:
        """Whether an evaluation follows this step of a run."""
        every = self._config.train.eval_every
        return step == self._config.train.steps or (every > 0 and step > 0 and step % every == 0)

    def owed(self, step: int) -> bool:
        """Whether a run that goes on from this step has to evaluate it first.

        It was stopped before an evaluation that was due; or nothing was trained yet, and what is
        forgotten is told by what the base knew.
        """
        if step == 0:
            return bool(self._config.tune.guard.data)
        return self.due(step) and step not in self._done

    def __call__(
        self, state: TrainState, step: int, record: Callable[[Record], None]
    ) -> float | None:
        """Gives every measurement to `record`, and the mean validation loss.

        None: it is not finite, or the model forgot more than `tune.guard` tolerates.
        """
        records, params = [], state.whole()
        for split, data in self._splits.items():
            found = self._validation(params, data, step, split)
            records.append(found)
            record(found)
        setup = self._setup
        model = Model(setup.model, setup.compute, setup.structure, params, step)
        for evaluator in self._evaluators:
            for found in evaluator(model, self._tokenizer):
                record({"step": step, **found})
        losses = [r["loss"] for r in records if not r["split"].startswith(SPLIT)]
        mean = float(np.mean(losses)) if losses and None not in losses else None
        if over := self.guard.take(step, records):
            self._display.warn(f"step {step:,}: {described(over, self.guard.config)}")
        return None if over else mean  # what forgot too much is not kept as the best

    def _validation(self, params, data: Validation, step: int, split: str) -> Record:
        rows = local_rows(self._sharding, self._size)
        found = validation_record(
            self._step, params, data.batches(self._size, self._config.eval.batches, rows),
            self._sharding, step=step, split=split, batch_size=self._size,
            bytes_per_token=data.bytes_per_token,
        )
        if found["loss"] is None:
            self._display.warn(f"step {step:,}: the {split} loss is not finite")
        else:
            self._display.message(f"step {step:,}: {split} loss {found['loss']:.4f}")
        return found


def _splits(config: Config, data: TrainingData) -> dict[str, Validation]:
    """What a run is measured on by the split of its records: its own sources, the guard's sets."""
    guarded, one = config.tune.guard.data, len(config.data.mixture) == 1
    splits: dict[str, Validation] = {
        "validation" if one else f"validation/{name}": found
        for name, found in data.validation().items()
        if name != REPLAY or config.tune.replay.path not in guarded  # not measured twice
    }
    for split, folder in named(guarded).items():
        try:
            splits[split] = ValidationData(folder, config.data, config.model.decoder_start_id)
        except UserError as error:
            raise UserError(f"tune.guard.data: {error}") from error
        if splits[split].source.manifest.tokenizer.hash != data.tokenizer_hash:
            raise UserError(
                f"tune.guard.data: {folder} was prepared with another tokenizer than the run's: "
                "the same ids would mean different text. Prepare it again with "
                f"--config.tokenizer.path={data.tokenizer_path}."
            )
    return splits
