"""The section `data` of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceConfig:
    """A folder written by `jaxllm prepare`, and its share of the examples."""

    path: str = ""
    weight: float = 1.0  # relative to the other sources'


@dataclass(frozen=True)
class DataConfig:
    """What a run trains on. The batch of a step depends on these and the seed alone."""

    sequence_length: int = 1024  # tokens per row
    global_batch_size: int = 8  # rows per step, over all hosts
    objective: str = "causal"  # a file of data/objectives
    mixture: dict[str, SourceConfig] = field(default_factory=dict)  # by a name of your choice
    shuffle: bool = True  # anew every epoch
    # False lets attention see the documents before in a row, as GPT-2 and nanoGPT do: then no mask
    # is needed but the causal one, which kernels know how to skip.
    block_cross_document_attention: bool = True
    workers: int = 0  # processes that load data; 0: a thread of this one
    prefetch: int = 2  # batches kept ready, per worker
