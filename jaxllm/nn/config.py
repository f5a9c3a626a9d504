"""The groups of a model's configuration, one per mechanism; imports no jax."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention with grouped keys and values (Ainslie et al. 2023, GQA)."""

    heads: int = 8
    kv_heads: int = 0  # heads of keys and values; 0: as many as `heads`
    head_dim: int = 0  # 0: width / heads
    bias: bool = False  # on queries, keys and values
    output_bias: bool = False
    window: int = 0  # local layers attend to this many last tokens (itself included); 0: to all
    pattern: tuple[str, ...] = ("local",)  # local | global, repeated over the layers
    softcap: float = 0.0  # scores become softcap * tanh(scores / softcap); 0: off
    scale: float = 0.0  # factor on q · k; 0: 1 / sqrt(head_dim)
    qk_norm: str = "none"  # none | head (each head's vector) | all (the heads' vectors as one)
    clip: float = 0.0  # queries, keys and values are cut to [-clip, clip] (OLMo); 0: off
    dropout: float = 0.0  # of the attention probabilities


@dataclass(frozen=True)
class PositionConfig:
    """How the model knows where a token stands."""

    kind: str = "rope"  # rope | learned | alibi | relative | none
    max_length: int = 2048  # rows of a learned table; the trained context of the others
    offset: int = 0  # learned: unused rows before position 0 (RoBERTa, BART)
    theta: float = 10_000.0  # base of RoPE's wavelengths
    local_theta: float = 0.0  # the same in local layers, unscaled (Gemma 3); 0: as the others
    rotary_fraction: float = 1.0  # share of each head that RoPE turns (Phi)
    scaling: str = "none"  # none | linear | llama3 | yarn | longrope
    scaling_factor: float = 8.0
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0
    original_max_length: int = 8192  # llama3, yarn, longrope: the context before scaling
    attention_factor: float = 0.0  # yarn, longrope: on sines and cosines; 0: as published
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0
    short_factors: tuple[float, ...] = ()  # longrope: divisors of each frequency
    long_factors: tuple[float, ...] = ()
    buckets: int = 32  # relative: learned biases by distance (T5)
    max_distance: int = 128


@dataclass(frozen=True)
class NormConfig:
    """Normalisation of the residual stream."""

    kind: str = "rmsnorm"  # rmsnorm | layernorm
    eps: float = 1e-5
    # pre: before each sublayer. post: of the sum after it (BERT). output: of its output, before
    # the sum (OLMo 2). sandwich: before it and of its output (Gemma 2).
    placement: str = "pre"
    learned: bool = True  # False: no scale and bias (OLMo)
    unit_offset: bool = False  # the scale is 1 + what is stored (Gemma)


@dataclass(frozen=True)
class MlpConfig:
    """The feed-forward sublayer; gated as in Shazeer 2020 (SwiGLU) or plain."""

    width: int = 2048
    activation: str = "silu"  # silu | gelu | gelu_tanh | relu
    gated: bool = True
    bias: bool = False
    dropout: float = 0.0  # of the hidden units


@dataclass(frozen=True)
class EmbeddingConfig:
    """What happens to token embeddings before the first layer."""

    scaled: bool = False  # multiplied by sqrt(width) (Vaswani et al. 2017, Gemma)
    norm: bool = False  # normalised (BLOOM, BERT, BART)
    types: int = 0  # rows of a table of token types added to them (BERT)
    dropout: float = -1.0  # of the result; -1: as the model's


@dataclass(frozen=True)
class EncoderConfig:
    """Where the encoder of an encoder-decoder differs from its decoder; 0: as the decoder."""

    layers: int = 0
    heads: int = 0  # head_dim is then width / heads, as in the decoder
    mlp_width: int = 0


@dataclass(frozen=True)
class HeadConfig:
    """What turns hidden states into the model's output."""

    # lm | masked_lm | sequence_classification | token_classification | reward | embedding
    kind: str = "lm"
    bias: bool = False  # of the output projection to the vocabulary
    scaled: bool = False  # hidden states times width**-0.5 before it (tied T5)
    activation: str = ""  # of the masked LM's transform; "": as the MLP's (RoBERTa: gelu, always)
    labels: int = 0  # classes of a classification head
    label_names: tuple[str, ...] = ()  # of the classes, by their ids; (): they have none
    # Which hidden state stands for the whole text: first | last (the last that is no padding) |
    # mean | none (each token its own).
    pooling: str = "last"
    dense: bool = False  # a dense layer with tanh after pooling (BERT, RoBERTa, BART)
    dropout: float = 0.0  # before the classifier
    classifier_bias: bool = True


@dataclass(frozen=True)
class InitConfig:
    """Normal initialisation; residual projections can be scaled down with depth (GPT-2)."""

    stddev: float = 0.02
    # Of embeddings only; matrices get stddev / sqrt(inputs), and queries also what an
    # attention.scale leaves out (T5).
    fan_in: bool = False
    scale_residual: bool = False  # output projections get stddev / sqrt(2 * layers)

    def of_matrix(self, inputs: int) -> float:
        """The stddev of a matrix with so many inputs."""
        return self.stddev / math.sqrt(inputs) if self.fan_in else self.stddev

    def of_query(self, inputs: int, attention: AttentionConfig) -> float:
        """The stddev of queries: their products with keys start as if scaled as usual."""
        if not (self.fan_in and attention.scale):
            return self.of_matrix(inputs)
        return self.of_matrix(inputs) / (attention.scale * math.sqrt(attention.head_dim))
