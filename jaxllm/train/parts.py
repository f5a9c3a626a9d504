"""What a run is made of before it has a state or a folder: config, data, model and loss, agreed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding, check_batch, check_length, make_sharding
from jaxllm.data import tokenizers
from jaxllm.data.batch import Batch
from jaxllm.data.loader import TrainingData
from jaxllm.train.config import Config
from jaxllm.train.distill.cache import TeacherCache, teacher_cache
from jaxllm.train.feed import batch_shapes, local_rows, place
from jaxllm.train.losses import LossOptions
from jaxllm.train.origin import tokenizer_folder, with_labels, with_steps, with_vocabulary
from jaxllm.train.program import loss_options, room_of, setup_of, with_remat
from jaxllm.train.state import Setup

# whose lengths `TrainingData.lengths` has
ROWS = ("the length of the targets", "the length of the encoder's rows")


@dataclass(frozen=True)
class Parts:
    """What a run is made of, and its batches: those of a step are a function of the step."""

    config: Config  # nothing in it is left open: steps, labels, remat
    setup: Setup
    options: LossOptions
    data: TrainingData
    tokenizer: tokenizers.Tokenizer
    teacher: TeacherCache | None  # whose words go into the batches
    rows: np.ndarray  # of a batch, that this host's devices hold

    @property
    def sharding(self) -> Sharding:
        """Where everything lies."""
        return self.setup.compute.sharding

    @property
    def batch_size(self) -> int:
        """Rows of a batch, of all hosts."""
        return self.config.data.global_batch_size

    def host_batches(self, start: int) -> Iterator[Batch]:
        """This host's rows of the batches from the one after step `start`, without end."""
        batches = self.data.iterate(start, self.rows)
        if self.teacher:
            return self.teacher.attached(batches, start, self.batch_size, self.rows)
        return batches

    def host_batch(self, index: int, rows: np.ndarray | None = None) -> Batch:
        """These rows (None: this host's) of the batch of step `index` + 1, read by itself."""
        rows = self.rows if rows is None else rows
        batch = self.data.batch_rows(index, rows)
        return self.teacher.attach(batch, index, self.batch_size, rows) if self.teacher else batch

    def place(self, batch: Batch) -> Batch:
        """The global device batch of which this host has these rows."""
        return place(batch, self.sharding, self.rows, self.batch_size)

    def batch_shapes(self) -> Batch:
        """The shapes and places of a global batch."""
        return batch_shapes(self.host_batch(0, self.rows[:1]), self.sharding, self.batch_size)


def gather(config: Config, display: Display) -> Parts:
    """The parts of the run that `config` asks for. Writes nothing.

    Raises:
      UserError: data, tokenizer, model, mesh or teacher that cannot be read or do not fit.
    """
    sharding, size = make_sharding(config.mesh), config.data.global_batch_size
    check_batch(
        sharding, size, "--config.data.global_batch_size", config.train.grad_accumulation
    )
    start_id = config.model.decoder_start_id
    data = TrainingData(config.data, config.seed, start_id, tokenizer_folder(config))
    for remark in data.remarks:
        display.message(remark)
    config = with_steps(config, data)
    teacher = teacher_cache(config, data)
    check_length(sharding, data.lengths)
    tokenizer = _tokenizer(config, data)
    for length, name in zip(data.lengths, ROWS, strict=True):
        config.model.check_length(length, name)
    config = dataclasses.replace(config, model=with_labels(config.model, data.labels))
    model = with_vocabulary(config, tokenizer)
    config = with_remat(
        config, model, sharding, data.lengths, data.targets_per_row,
        room_of(jax.local_devices()[0]), display.message,
    )
    setup = setup_of(config, model, sharding)
    options = loss_options(config, setup.model, data.targets_per_row)
    return Parts(config, setup, options, data, tokenizer, teacher, local_rows(sharding, size))


def _tokenizer(config: Config, data: TrainingData) -> tokenizers.Tokenizer:
    """The data's tokenizer, which must be the one that the config names, if it names one."""
    tokenizer = data.load_tokenizer()
    if config.tokenizer.path:
        wanted = tokenizers.load(config.tokenizer.path)
        if wanted.hash != tokenizer.hash:
            raise UserError(
                f"tokenizer.path={config.tokenizer.path!r} is another tokenizer than the one the "
                f"data was prepared with ({data.tokenizer_path}). Prepare the data again with "
                f"--config.tokenizer.path={config.tokenizer.path}."
            )
    return tokenizer
