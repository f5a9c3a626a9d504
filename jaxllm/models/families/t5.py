"""T5: encoder-decoder, RMSNorm, relative position biases shared by all layers, unscaled scores.

Raffel et al. 2020 (arXiv:1910.10683). Version 1.1 (also Flan-T5, Chung et al. 2022,
arXiv:2210.11416) gates its MLP with GELU and has an output projection of its own. Dropout of the
last hidden states, which the original trains with, is left out.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS, Field, Fixed, unsupported
from jaxllm.models.hf.weights import linear, norm, table, under, when
from jaxllm.nn.config import (
    AttentionConfig,
    HeadConfig,
    InitConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


def _t5(
    width: int, layers: int, heads: int, mlp: int, *, head_dim: int = 64, vocab_size: int = 32_128,
    gated: bool = False,
) -> ModelConfig:
    return ModelConfig(
        family="t5", architecture="encoder_decoder", vocab_size=vocab_size, width=width,
        layers=layers, tied=not gated,
        attention=AttentionConfig(heads=heads, head_dim=head_dim, scale=1.0),
        positions=PositionConfig(kind="relative", max_length=512),
        norm=NormConfig("rmsnorm", 1e-6),
        mlp=MlpConfig(width=mlp, activation="gelu_tanh" if gated else "relu", gated=gated),
        head=HeadConfig(scaled=not gated), init=InitConfig(stddev=1.0, fan_in=True),
    )


PRESETS = {
    "t5_debug": _t5(64, 2, 4, 192, head_dim=16, vocab_size=0),
    "t5_small": _t5(512, 6, 8, 2048),
    "t5_base": _t5(768, 12, 12, 3072),
    "t5_large": _t5(1024, 24, 16, 4096),
    "t5_3b": _t5(1024, 24, 32, 16_384, head_dim=128),
    "t5_11b": _t5(1024, 24, 128, 65_536, head_dim=128),
    "t5v1.1_small": _t5(512, 8, 6, 1024, gated=True),
    "t5v1.1_base": _t5(768, 12, 12, 2048, gated=True),
    "t5v1.1_large": _t5(1024, 24, 16, 2816, gated=True),
    "t5v1.1_xl": _t5(2048, 24, 32, 5120, gated=True),
    "t5v1.1_xxl": _t5(4096, 24, 64, 10_240, gated=True),
}


class _Layers:
    """num_layers is the encoder's; num_decoder_layers is the same when null."""

    keys = ("num_layers", "num_decoder_layers")

    def read(self, theirs):
        """See Rule."""
        layers = theirs.get("num_layers", 6)
        return {"encoder.layers": layers, "layers": theirs.get("num_decoder_layers") or layers}

    def write(self, ours):
        """See Rule."""
        return {"num_layers": ours.encoder.layers or ours.layers, "num_decoder_layers": ours.layers}


class _Activation:
    """feed_forward_proj, such as relu or gated-silu; gated-gelu means GELU's tanh form."""

    keys = ("feed_forward_proj", "dense_act_fn", "is_gated_act")

    def read(self, theirs):
        """See Rule."""
        text = theirs.get("feed_forward_proj", "relu")
        gated = text.startswith("gated-")
        name = "gelu_new" if text == "gated-gelu" else text.removeprefix("gated-")
        for key, value in (("dense_act_fn", name), ("is_gated_act", gated)):
            if theirs.get(key, value) != value:
                raise unsupported(key, theirs[key], [value])
        if name not in ACTIVATIONS:
            raise unsupported("feed_forward_proj", text, ["relu", "gated-gelu", "gated-silu"])
        return {"mlp.activation": ACTIVATIONS[name], "mlp.gated": gated}

    def write(self, ours):
        """See Rule."""
        ours, names = ours.mlp, {"gelu_tanh": "gelu_new"}
        name = names.get(ours.activation, ours.activation)
        text = f"gated-{name}" if ours.gated else name
        text = "gated-gelu" if text == "gated-gelu_new" else text
        return {"feed_forward_proj": text, "dense_act_fn": name, "is_gated_act": ours.gated}


class _Dropout:
    """dropout_rate: after sublayers, of attention's probabilities and of the MLP's hidden units."""

    keys = ("dropout_rate",)

    def read(self, theirs):
        """See Rule."""
        rate = theirs.get("dropout_rate", 0.1)
        return dict.fromkeys(("dropout", "attention.dropout", "mlp.dropout"), rate)

    def write(self, ours):
        """See Rule."""
        return {"dropout_rate": ours.dropout}


class _Head:
    """An output projection of its own reads unscaled states, the embedding scaled ones.

    transformers 5 writes tie_word_embeddings=true always, and scale_decoder_outputs=false where
    that was read as false; whether there is a projection of its own, the weights say.
    """

    keys = ("tie_word_embeddings", "scale_decoder_outputs")

    def read(self, theirs):
        """See Rule."""
        tied = theirs.get("tie_word_embeddings", True)
        return {"tied": tied, "head.scaled": theirs.get("scale_decoder_outputs", tied)}

    def write(self, ours):
        """See Rule."""
        return {"tie_word_embeddings": ours.tied, "scale_decoder_outputs": ours.head.scaled}


def _attention(ours: str, theirs: str):
    sides = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return tuple(
        entry for name, letter in sides.items()
        for entry in linear(f"{ours}.{name}", f"{theirs}.{letter}")
    )


def _tower(name: str, cross: bool):
    last, gate = ("2" if cross else "1"), "mlp.gate.kernel"
    layer = (
        norm("attention_norm", "layer.0.layer_norm"),
        _attention("attention", "layer.0.SelfAttention"),
        norm("cross_norm", "layer.1.layer_norm") if cross else (),
        _attention("cross", "layer.1.EncDecAttention") if cross else (),
        norm("mlp_norm", f"layer.{last}.layer_norm"),
        when(gate, False, linear("mlp.up", f"layer.{last}.DenseReluDense.wi")),
        when(gate, True, linear("mlp.gate", f"layer.{last}.DenseReluDense.wi_0")),
        when(gate, True, linear("mlp.up", f"layer.{last}.DenseReluDense.wi_1")),
        linear("mlp.down", f"layer.{last}.DenseReluDense.wo"),
    )
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return (
        *table(f"{name}.bias", bias),
        *under(f"{name}.layers.*.", f"{name}.block.{{}}.", *layer),
        *norm(f"{name}.norm", f"{name}.final_layer_norm"),
    )


FAMILY = Family(
    model_type="t5",
    architectures={
        "T5ForConditionalGeneration": HeadConfig(),
        "T5WithLMHeadModel": HeadConfig(),  # its name in the first files
        "T5Model": HeadConfig("embedding", pooling="last"),
    },
    base=_t5(0, 0, 0, 0),
    config=(
        Field("vocab_size", "vocab_size", 32_128),
        Field("d_model", "width", 512),
        _Layers(),
        Field("num_heads", "attention.heads", 8),
        Field("d_kv", "attention.head_dim", 64),
        Field("d_ff", "mlp.width", 2048),
        _Activation(),
        Field("relative_attention_num_buckets", "positions.buckets", 32),
        Field("relative_attention_max_distance", "positions.max_distance", 128),
        Field("n_positions", "positions.max_length", 512),
        Field("layer_norm_epsilon", "norm.eps", 1e-6),
        Field("initializer_factor", "init.stddev", 1.0),
        _Dropout(),
        Field("classifier_dropout", "head.dropout", 0.0),
        _Head(),
        Fixed("is_encoder_decoder", True),
        Fixed("is_decoder", False),
    ),
    weights=(
        *table("embedding", "shared"), *_tower("encoder", False), *_tower("decoder", True),
        *linear("head.output", "lm_head"),
    ),
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    twins={
        name: "shared.weight"
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    },
    refused={"T5EncoderModel": "encoder-only T5 is not read"},
    untied_with="lm_head.weight", harmless=frozenset({"output_past"}),
)
