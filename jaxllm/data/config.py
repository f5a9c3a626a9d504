"""The section `data` of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ColumnsConfig:
    """Where each field of a row stands: a column's name, or a jinja2 template of the row's columns,
    such as "Question: {{question}}"; "": the column of the field's own name."""

    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: str = ""
    tools: str = ""
    label: str = ""
    tokens: str = ""
    tags: str = ""
    source: str = ""
    target: str = ""


@dataclass(frozen=True)
class SourceConfig:
    """A folder written by `jaxllm prepare`, or rows, and its share of the examples.

    All but the first two are for rows.
    """

    path: str = ""
    weight: float = 1.0  # relative to the other sources'; 0: the source is left out
    validation: str = ""  # rows to validate with; "": a share of those of `path`
    validation_share: float = 0.05  # of the rows, chosen by a hash of each
    format: str = ""  # of a row, such as prompt_completion; "": by the columns that it has
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    csv_columns: tuple[str, ...] = ()  # names of the columns of a file that has no header line
    csv_delimiter: str = ""  # between fields; "" is a tab in .tsv files, else a comma
    csv_quotes: bool = True  # whether fields that begin with " end with it; never in some TSV
    perturb: tuple[str, ...] = ()  # adversarial data: files of data/perturb, one after the other
    perturb_share: float = 0.5  # of the rows to train on; those to validate with stay clean
    perturb_strength: float = 0.1  # share of a row's characters or words that are changed


class ReplayedSource(SourceConfig):
    """What `tune.replay` mixes in: its share stands, whatever the temperature makes of the others.
    """


def path_field(name: str, source: SourceConfig) -> str:
    """The field in which the user named a source's path."""
    replayed = isinstance(source, ReplayedSource)
    return "tune.replay.path" if replayed else f"data.mixture.{name}.path"


@dataclass(frozen=True)
class MaskedConfig:
    """Objective `masked` (BERT, RoBERTa). What is neither masked nor random stays as it is."""

    rate: float = 0.15  # share of the tokens that are predicted
    mask_share: float = 0.8  # of those: the model sees the mask token
    random_share: float = 0.1  # of those: the model sees a random token
    whole_word: bool = False  # words are chosen, not tokens


@dataclass(frozen=True)
class SpanConfig:
    """Objective `span_corruption` (T5)."""

    density: float = 0.15  # share of the tokens that are dropped
    mean_length: float = 3.0  # tokens per dropped span, at least 1


@dataclass(frozen=True)
class DenoisingConfig:
    """Objective `denoising` (BART)."""

    density: float = 0.3  # share of the words that are masked
    mean_length: float = 3.0  # words per span, Poisson distributed, at least 1
    permute_sentences: bool = True  # inside each document
    whole_word: bool = True  # spans are of words where the tokenizer knows any, else of tokens


@dataclass(frozen=True)
class PrefixConfig:
    """Objective `prefix_lm`: the share of a document seen in both directions is uniform."""

    min_share: float = 0.0
    max_share: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """What a run trains on. The batch of a step depends on these and the seed alone."""

    sequence_length: int = 1024  # tokens per row; of an encoder-decoder the encoder's
    global_batch_size: int = 8  # rows per step, over all hosts
    objective: str = "causal"  # a file of data/objectives
    target_length: int = 0  # of the decoder of an encoder-decoder; 0: as its objective needs
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    spans: SpanConfig = field(default_factory=SpanConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    mixture: dict[str, SourceConfig] = field(default_factory=dict)  # by a name of your choice
    # T5's sampling of tasks: weights are multiplied by (examples of the source) ** (1 / this); 1 is
    # in proportion to the examples, the larger the more equal. 0: the weights alone decide. To
    # prepared data beside rows, and to what is replayed, the weight gives their share either way.
    mixture_temperature: float = 0.0
    chat_template: str = ""  # chatml | llama3 | gemma | mistral | alpaca; "": the tokenizer's own
    completion_only_loss: bool = True  # of rows of a prompt and a completion
    assistant_only_loss: bool = False  # of messages: what the assistant wrote, and no more
    packing: bool = True  # several rows share one of the batch, best fit first; no row sees another
    truncate: bool = False  # cuts examples that are longer than a row, instead of refusing them
    labels: tuple[str, ...] = ()  # names in the order of their ids; (): those met, sorted
    shuffle: bool = True  # anew every epoch
    # False lets attention see the documents before in a row, as GPT-2 and nanoGPT do: then no mask
    # is needed but the causal one, which kernels know how to skip. The rows of an encoder-decoder
    # are always one text, as T5's and BART's are.
    block_cross_document_attention: bool = True
    workers: int = 0  # processes that load data; 0: a thread of this one
    prefetch: int = 2  # batches kept ready, per worker
