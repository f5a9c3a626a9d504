"""T5: towers of different depth, few buckets, heads unlike the width, plain and gated MLPs."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 59, "d_model": 24, "d_kv": 10, "d_ff": 36, "num_heads": 3,
    "relative_attention_num_buckets": 10, "relative_attention_max_distance": 13,
    "dropout_rate": 0.2, "layer_norm_epsilon": 3e-3, "initializer_factor": 0.7,
    "decoder_start_token_id": 4, "pad_token_id": 3, "eos_token_id": 5,
}
_MODEL = {"config": "T5Config", "model": "T5ForConditionalGeneration"}
CASES = {
    "v1.0": Case(
        **_MODEL, gradients=True, options={**_SIZES, "num_layers": 3, "num_decoder_layers": 2},
    ),
    # version 1.1's unscaled output, which transformers 5 makes with the embedding tied
    "v1.1": Case(**_MODEL, options={
        **_SIZES, "num_layers": 2, "num_decoder_layers": 4, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }),
    "gated_silu": Case(**_MODEL, options={
        **_SIZES, "num_layers": 2, "feed_forward_proj": "gated-silu",
        "relative_attention_num_buckets": 7,
    }),
}
