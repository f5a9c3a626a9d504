"""The training run, top-down: set up, restore, step, evaluate, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

import jaxllm
from jaxllm.core import devices, watch
from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import to_dict
from jaxllm.core.display import Display
from jaxllm.core.errors import Interrupted, UserError, naming_memory
from jaxllm.core.garbage import settled
from jaxllm.core.lock import Lock
from jaxllm.core.paths import atomic_write_text
from jaxllm.core.rundir import MetricsWriter, Record, RunDirectory, read_metrics
from jaxllm.models.flops import train_flops_per_row
from jaxllm.models.parameters import param_count
from jaxllm.nn.module import Params
from jaxllm.train.compiled import load_or_compile, read
from jaxllm.train.config import Config
from jaxllm.train.distill.loss import load_teacher
from jaxllm.train.evaluation import Evaluation, MakeEvaluators
from jaxllm.train.interrupt import Interrupt
from jaxllm.train.minimised import step_loss
from jaxllm.train.nonfinite import explain, keep_batch
from jaxllm.train.origin import (
    base_of,
    changed_fields,
    check_fits,
    initial_params,
    teacher_of,
    warn_unexportable,
)
from jaxllm.train.parts import gather
from jaxllm.train.program import abstract_state, compile_step
from jaxllm.train.recorder import Clock, NonFinite, Recorder
from jaxllm.train.state import TrainState, init_state
from jaxllm.train.step import step_key


def train(
    config: Config, difference: dict[str, Any], workdir: str, display: Display,
    evaluators: MakeEvaluators = lambda splits: (), compiled: str = "",
) -> list[Record]:
    """Trains into `workdir`, from its newest checkpoint if it has one; gives the last metrics.

    Args:
      config: the resolved configuration.
      difference: the same as a difference from the defaults, for people to read.
      evaluators: makes what is called at every evaluation, besides the validation loss.
      compiled: folder of `jaxllm check --save-compiled` to load the step from; "": compiles it.

    Raises:
      UserError: anything in the configuration, the data or the folder that cannot work.
      Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    run = Run(config, difference, workdir, display, evaluators, compiled)
    try:
        # before closing, which waits for the other hosts
        with watch.together(), naming_memory("The run", MEMORY):
            records = run.run()
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            run.close()
        run.directory.remove_empty()  # of a run that was refused nothing stays
        raise
    run.close()
    return records


MEMORY = (
    "Lower data.global_batch_size or data.sequence_length, raise train.grad_accumulation, set "
    "train.remat='full', or use more devices."
)
BARRIER_SECONDS = 600.0  # hosts read their data's manifests from buckets at different speeds


class Run:
    """One process's part in a training run."""

    def __init__(
        self, config: Config, difference: dict[str, Any], workdir: str, display: Display,
        evaluators: MakeEvaluators, compiled: str,
    ):
        self.difference, self.display = difference, display
        self.stored = read(compiled) if compiled else None
        self.clock = Clock()
        self.parts = parts = gather(config, display)
        config = self.config = parts.config
        self.setup, self.data = parts.setup, parts.data
        self.base, self.teacher_hash = base_of(self.setup, config), teacher_of(config)
        self.evaluation = Evaluation(
            config, self.setup, parts.options, self.data, evaluators, display
        )
        # Written last: a mistake above leaves no folder behind.
        self.directory = RunDirectory(workdir)
        self.lock: Lock | None = None
        if jax.process_index() == 0:
            self.directory.create()
            self.lock = Lock(self.directory.root)
        watch.barrier("the run directory", BARRIER_SECONDS)  # none writes before the lock is held
        self.checkpoints = Checkpoints(
            self.directory.checkpoints,
            keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best,
        )
        self.keeps_best = config.tune.guard.action == "restore" and bool(config.tune.guard.data)
        self.writer: MetricsWriter | None = None
        self.last: dict[str, Record] = {}

    def run(self) -> list[Record]:
        """Restores or starts, trains to the last step, evaluates, saves."""
        with Interrupt(self.display.warn) as interrupt:
            return self._run(interrupt)

    def _run(self, interrupt: Interrupt) -> list[Record]:
        state, tokens = self._start()
        start, steps = int(state.step), self.config.train.steps
        if start >= steps:
            stands = (
                f"is finished: step {start:,} of {steps:,}" if start == steps
                else f"is at step {start:,}, past train.steps={steps}"
            )
            self.display.message(
                f"{self.directory.root} {stands}. Raise train.steps to go on, or choose another "
                "--workdir."
            )
            return _last_records(self.directory)
        self.evaluation.resume(
            [r for r in read_metrics(self.directory.metrics) if r["step"] <= start], start
        )
        self._describe()
        if self.evaluation.guard.stops:
            self.display.message(
                f"{self.directory.root} was stopped at step {start:,} by tune.guard.action='stop'. "
                "Raise tune.guard.tolerance to go on."
            )
            return _last_records(self.directory)
        self.display.start("training", steps, start)
        step_fn = self._compile(state)
        self._save_description()  # what this machine cannot compile has changed nothing
        self.writer = MetricsWriter(
            self.directory, start, self.display.warn, writes=jax.process_index() == 0
        )
        recorder = Recorder(
            self.writer, self.display, self.clock, log_every=self.config.train.log_every,
            steps=steps, start=start, tokens=tokens,
            flops_per_step=self.config.data.global_batch_size * train_flops_per_row(
                self.setup.model, self.setup.specs, *self.data.lengths, self.data.targets_per_row
            ),
        )
        batches = self.parts.host_batches(start)
        if self.evaluation.owed(start):
            self._evaluate(state, start)
        try:
            if not self._stopped(start):
                with settled():
                    self._loop(state, start, step_fn, batches, recorder, interrupt)
        except NonFinite as stop:
            self._report_nonfinite(stop.step)
        with self.clock.phase("checkpoint"), self.display.phase("checkpoint"):
            self.checkpoints.wait()
        recorder.write_times(steps)
        return list(self.last.values())

    def close(self) -> None:
        """Lets go of files and threads."""
        with contextlib.ExitStack() as stack:
            if self.lock:
                stack.callback(self.lock.release)  # last: callbacks run in reverse
            stack.callback(self.checkpoints.close)
            if self.writer:
                stack.callback(self.writer.close)
            stack.callback(self.display.close)

    def _loop(self, state, start, step_fn, batches, recorder, interrupt) -> None:
        config, steps = self.config, self.config.train.steps
        recorder.restart_window(start)
        for step in range(start + 1, steps + 1):
            with self.clock.phase("data"), self.display.phase("waiting for data"):
                batch = self.parts.place(next(batches))
            with self.clock.phase("step"):
                state, metrics = step_fn(state, batch)
            self.state = state  # for the report of a non-finite step
            recorder.push(step, metrics)
            stop = interrupt.requested(step) and step < steps
            evaluates = self.evaluation.due(step)
            saves = stop or step == steps or step % (config.checkpoint.every or steps) == 0
            saves = saves or (evaluates and self.keeps_best)
            if not (evaluates or saves):
                continue
            recorder.flush()
            if stop:  # a cluster gives seconds: an evaluation that is due waits for the resume
                self._save(step, state, recorder.tokens, None)
                self.checkpoints.wait()
                raise Interrupted(
                    f"Stopped after step {step:,} of {steps:,}; the state is saved. The same "
                    "command continues from there."
                )
            loss = None
            if evaluates:
                try:
                    loss = self._evaluate(state, step)
                except BaseException:  # what was trained must outlive what measures it
                    self._save(step, state, recorder.tokens, None)
                    raise
            if step == steps and self.evaluation.guard.restores:
                state = self._best(state, step)
            if saves or self.evaluation.guard.stops:
                self._save(step, state, recorder.tokens, loss)
            if self._stopped(step):
                return
            recorder.restart_window(step)

    def _stopped(self, step: int) -> bool:
        """Whether the guard ends the run at the evaluation of this step; says so."""
        if self.evaluation.guard.stops:
            self.display.message(f"stopped at step {step:,}: tune.guard.action='stop'")
        return self.evaluation.guard.stops

    def _best(self, state: TrainState, step: int) -> TrainState:
        """The best state of which the guard had nothing to say, to end with."""
        with self.display.phase("checkpoint"):
            self.checkpoints.wait()
        best = self.evaluation.guard.best_step(self.checkpoints.steps())
        if best is None:
            self.display.warn(
                "no checkpoint is of an evaluation within tune.guard.tolerance: nothing is restored"
            )
            return state
        with self.display.phase("checkpoint"):
            kept = self.checkpoints.restore(best, abstract_state(self.setup).saved())
        self.display.message(f"step {step:,} ends with the parameters of step {best:,}")
        restored = state._replace(**{**kept, "step": state.step})
        self._evaluate(restored, step)
        return restored

    def _start(self) -> tuple[TrainState, int]:
        """The state to go on from and the tokens trained on before it."""
        with self.clock.phase("checkpoint"), self.display.phase("checkpoint"):
            found = self.checkpoints.restore_newest(
                abstract_state(self.setup).saved(), self.display.warn,
                partial(check_fits, self.setup, self.config, self.data, self.directory),
            )
        if found:
            kept, meta = found
            state = TrainState(**kept, frozen={}, reference={})
            if meta["step"] >= self.config.train.steps:  # nothing is resumed
                return state, meta["tokens"]
            shapes = self.setup.shapes
            if shapes.frozen or shapes.reference or shapes.teacher:
                trained = None if shapes.reference else state.params
                state = state.with_constant(self._fresh(trained))
            self.display.message(f"resuming {self.directory.root} at step {meta['step']:,}")
            for change in changed_fields(meta["difference"], self.difference):
                self.display.message(f"  changed since then: {change}")
            return state, meta["tokens"]
        return self._fresh(), 0

    def _fresh(self, trained: Params | None = None) -> TrainState:
        """The state before the first step; `trained` as of `initial_params`."""
        params = None
        if self.config.train.init_from:
            params = initial_params(
                self.config.train.init_from, self.setup, self.parts.tokenizer.hash,
                self.config.seed, self.display, trained,
            )
        teacher = self.config.tune.distillation.teacher
        with self.clock.phase("compile"), self.display.phase("compiling"):
            state = init_state(self.setup, self.config.seed, params)
        if not teacher:
            return state
        return state._replace(teacher=load_teacher(
            teacher, self.setup.compute, self.parts.tokenizer.hash, self.display.warn
        ))

    def _save(self, step: int, state: TrainState, tokens: int, loss: float | None) -> None:
        meta = {
            "model": to_dict(self.setup.model), "optimizer": self.config.optimizer.name,
            "data": self.data.fingerprint, "tokenizer": self.parts.tokenizer.hash, "tokens": tokens,
            "difference": self.difference, "base": self.base, "teacher": self.teacher_hash,
        }
        with self.clock.phase("checkpoint"), self.display.phase("checkpoint"):
            self.writer.flush()  # or a run that resumes there would lack records
            self.checkpoints.save(step, state.saved(), meta, loss)
            if self.config.optimizer.placement == "host":
                # Orbax copies what lies on devices and writes this from where it is. The next step
                # reuses that memory, which XLA refuses while it is read (on a CPU it copies).
                self.checkpoints.wait()

    def _compile(self, state: TrainState) -> Callable:
        options, shapes = self.parts.options, self.parts.batch_shapes()
        with self.clock.phase("compile"), self.display.phase("compiling"):
            if self.stored:
                return load_or_compile(
                    self.stored, self.config, self.setup, options, shapes, self.display.message
                )
            return compile_step(self.config, self.setup, options, state, shapes)

    def _evaluate(self, state: TrainState, step: int) -> float | None:
        """Writes what is measured; gives the mean validation loss, see Evaluation."""
        with self.clock.phase("evaluation"), self.display.phase("evaluation"):
            return self.evaluation(state, step, self._record)

    def _record(self, record: Record) -> None:
        self.last[record["split"]] = record
        self.writer.write(record)

    def _report_nonfinite(self, step: int) -> None:
        """The state is that before update `step`: repeats it to find the place, and stops."""
        local = self.parts.host_batch(step - 1)
        options, batch = self.parts.options, self.parts.place(local)
        key = step_key(self.config.seed, step - 1)
        kept = keep_batch(self.directory, step, local)
        with self.display.phase("looking for the first bad layer"):
            where = explain(
                self.setup, options, self.state, batch, key,
                self.config.train.grad_accumulation,
                step_loss(self.config.tune, self.setup, options, self.setup.teacher),
            )
        raise UserError(
            f"The loss or its gradient was not finite at step {step}. {where} The update was not "
            f"applied; the batch is kept in {kept}, and the last checkpoint is untouched. Lower "
            "optimizer.learning_rate or optimizer.max_grad_norm, add optimizer.warmup_steps, or "
            "look at the batch."
        )

    def _save_description(self) -> None:
        """Writes config.json and the tokenizer."""
        config = dataclasses.replace(self.config, model=self.setup.model)
        if jax.process_index() == 0:
            description = {
                "difference": self.difference, "config": to_dict(config),
                "versions": {
                    "jaxllm": jaxllm.__version__, "jax": jax.__version__,
                    "python": platform.python_version(),
                },
                "devices": devices.describe(),
                "parameters": param_count(self.setup.specs),
            }
            text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
            atomic_write_text(self.directory.config, text)
            self.parts.tokenizer.save(self.directory.tokenizer)

    def _describe(self) -> None:
        """Says what is being trained."""
        mesh = {k: v for k, v in self.parts.sharding.mesh.shape.items() if v > 1}
        along = " x ".join(f"{k} {v}" for k, v in mesh.items())
        whole, ours = (param_count(x) for x in (self.setup.specs, self.setup.shapes.params))
        self.display.message(
            f"{whole:,} parameters{f', of which {ours:,} train,' if ours < whole else ''} on "
            f"{devices.describe()}" + (f" ({along})" if along else "")
        )
        warn_unexportable(self.setup.model, self.display)
        for name, value in self.difference.items():
            self.display.message(f"  {name} = {value!r}")


def _last_records(directory: RunDirectory) -> list[Record]:
    last = {record["split"]: record for record in read_metrics(directory.metrics)}
    return [record for split, record in last.items() if split not in ("train", "time")]
