"""What a parity reference holds, and how its weights lie in our tree; needs numpy and jaxllm only.

A reference is a dictionary of arrays: weights/NAME and gradients/NAME under transformers' names,
and for each batch (padded, packed) its inputs and logits. The loss is the sum over valid places of
the negative log-likelihood of the next token, over both batches.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.config import ModelConfig
from jaxllm.models.parameters import is_spec
from jaxllm.models.transformer import Transformer
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig
from jaxllm.nn.module import abstract, bind

# transformers' configuration of each case: every hyperparameter away from its default
LLAMA = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 36, "rms_norm_eps": 3e-3,
    "max_position_embeddings": 96, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 20.0, "factor": 4.0, "low_freq_factor": 1.5,
        "high_freq_factor": 3.5, "original_max_position_embeddings": 24,
    },
}
GPT2 = {
    "vocab_size": 59, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 52, "n_positions": 37,
    "activation_function": "gelu_new", "layer_norm_epsilon": 2e-3, "tie_word_embeddings": True,
}
CASES = {
    "llama": ("llama", LLAMA),
    "llama_tied_biased": ("llama", {
        **LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        "num_attention_heads": 6, "num_key_value_heads": 3, "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 123.0},
    }),
    "gpt2": ("gpt2", GPT2),
    "gpt2_untied": ("gpt2", {
        **GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 40,
    }),
}
BATCHES = ("padded", "packed")
LENGTH = 30  # beyond original_max_position_embeddings

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}


def batches(vocab_size):
    """{name: (ids, positions, segments)}: rows padded at the end, and rows of three documents."""
    rng = np.random.default_rng(5)
    shape = (2, LENGTH)
    arange = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape)
    padded = (arange < np.array([[LENGTH - 9], [LENGTH]])).astype(np.int32)
    starts = np.array([[0, 11, 13], [0, 4, 25]])
    packed = sum((arange >= starts[:, i:i + 1]).astype(np.int32) for i in range(3))
    begin = np.take_along_axis(starts, packed - 1, 1).astype(np.int32)

    def ids():
        return rng.integers(0, vocab_size, shape).astype(np.int32)

    return {"padded": (ids(), arange, padded), "packed": (ids(), arange - begin, packed)}


def targets(ids, segments):
    """(next token, 1 where it belongs to the same document and is no padding)."""
    following = np.roll(ids, -1, 1)
    valid = (segments == np.roll(segments, -1, 1)) & (segments > 0)
    valid[:, -1] = False
    return following, valid.astype(np.float32)


def model_config(family, theirs):
    """Our configuration of theirs."""
    if family == "gpt2":
        return ModelConfig(
            family="gpt2", vocab_size=theirs["vocab_size"], width=theirs["n_embd"],
            layers=theirs["n_layer"], tied=theirs["tie_word_embeddings"],
            attention=AttentionConfig(theirs["n_head"], bias=True, output_bias=True),
            positions=PositionConfig(kind="learned", max_length=theirs["n_positions"]),
            norm=NormConfig("layernorm", theirs["layer_norm_epsilon"]),
            mlp=MlpConfig(
                theirs["n_inner"], ACTIVATIONS[theirs["activation_function"]], gated=False,
                bias=True,
            ),
        ).completed()
    rope = theirs["rope_parameters"]
    scaling = {} if rope["rope_type"] == "default" else {
        "scaling": "llama3", "scaling_factor": rope["factor"],
        "low_frequency_factor": rope["low_freq_factor"],
        "high_frequency_factor": rope["high_freq_factor"],
        "original_max_length": rope["original_max_position_embeddings"],
    }
    bias = theirs["attention_bias"]
    return ModelConfig(
        family="llama", vocab_size=theirs["vocab_size"], width=theirs["hidden_size"],
        layers=theirs["num_hidden_layers"], tied=theirs["tie_word_embeddings"],
        attention=AttentionConfig(
            theirs["num_attention_heads"], theirs["num_key_value_heads"], theirs["head_dim"],
            bias=bias, output_bias=bias,
        ),
        positions=PositionConfig(theta=rope["rope_theta"], **scaling),
        norm=NormConfig("rmsnorm", theirs["rms_norm_eps"]),
        mlp=MlpConfig(
            theirs["intermediate_size"], ACTIVATIONS[theirs.get("hidden_act", "silu")],
            bias=theirs["mlp_bias"],
        ),
    ).completed()


def our_tree(config, theirs):
    """Weights or gradients by transformers' names as our parameter tree."""
    attention = config.attention
    heads = (attention.heads, attention.head_dim)
    kv_heads = (attention.kv_heads, attention.head_dim)
    layer = _gpt2_layer if config.family == "gpt2" else _llama_layer
    layers = [layer(theirs, i, heads, kv_heads) for i in range(config.layers)]
    stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *layers)
    if config.family == "gpt2":
        tree = {
            "embedding": {"embedding": theirs["transformer.wte.weight"]},
            "positions": {"embedding": theirs["transformer.wpe.weight"]},
            "norm": _norm(theirs, "transformer.ln_f"),
        }
    else:
        tree = {
            "embedding": {"embedding": theirs["model.embed_tokens.weight"]},
            "norm": _norm(theirs, "model.norm"),
        }
    if not config.tied:
        tree["head"] = {"kernel": theirs["lm_head.weight"].T}
    return {**jax.tree.map(jnp.asarray, tree), "layers": {"layer": stacked}}


def _norm(theirs, name):
    norm = {"scale": theirs[f"{name}.weight"]}
    return norm | ({"bias": theirs[f"{name}.bias"]} if f"{name}.bias" in theirs else {})


def _llama_layer(theirs, index, heads, kv_heads):
    """torch's Linear keeps [out, in]."""
    base = f"model.layers.{index}."

    def linear(name, inputs=None, outputs=None):
        weight, bias = theirs[f"{base}{name}.weight"].T, theirs.get(f"{base}{name}.bias")
        rows, columns = weight.shape
        layer = {"kernel": weight.reshape(*(inputs or (rows,)), *(outputs or (columns,)))}
        return layer | ({} if bias is None else {"bias": bias.reshape(outputs or (columns,))})

    return {
        "attention_norm": _norm(theirs, f"{base}input_layernorm"),
        "attention": {
            "query": linear("self_attn.q_proj", outputs=heads),
            "key": linear("self_attn.k_proj", outputs=kv_heads),
            "value": linear("self_attn.v_proj", outputs=kv_heads),
            "output": linear("self_attn.o_proj", inputs=heads),
        },
        "mlp_norm": _norm(theirs, f"{base}post_attention_layernorm"),
        "mlp": {name: linear(f"mlp.{name}_proj") for name in ("gate", "up", "down")},
    }


def _gpt2_layer(theirs, index, heads, kv_heads):
    """GPT-2's Conv1D keeps [in, out], queries, keys and values side by side."""
    base = f"transformer.h.{index}."
    width = heads[0] * heads[1]

    def linear(name):
        return {"kernel": theirs[f"{base}{name}.weight"], "bias": theirs[f"{base}{name}.bias"]}

    joint = linear("attn.c_attn")
    query, key, value = (
        {"kernel": kernel.reshape(width, *heads), "bias": bias.reshape(heads)}
        for kernel, bias in zip(
            np.split(joint["kernel"], 3, 1), np.split(joint["bias"], 3), strict=True
        )
    )
    output = linear("attn.c_proj")
    output["kernel"] = output["kernel"].reshape(*heads, width)
    return {
        "attention_norm": _norm(theirs, f"{base}ln_1"),
        "attention": {"query": query, "key": key, "value": value, "output": output},
        "mlp_norm": _norm(theirs, f"{base}ln_2"),
        "mlp": {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")},
    }


def part(reference, name):
    """The arrays under NAME/, without it."""
    return {key[len(name) + 1:]: value for key, value in reference.items()
            if key.startswith(f"{name}/")}


def check(reference, compute):
    """Asserts that our logits and gradients are those of the reference."""
    config = model_config(*json.loads(str(reference["config"])))
    make = partial(Transformer, config=config, compute=compute)
    structure, specs = abstract(make)
    params = our_tree(config, part(reference, "weights"))
    shapes = jax.tree.map(lambda spec: spec.shape, specs, is_leaf=is_spec)
    assert jax.tree.map(jnp.shape, params) == shapes
    # the two batches as one of four rows
    given = [np.concatenate(rows) for rows in zip(*batches(config.vocab_size).values(),
                                                  strict=True)]
    following, valid = targets(given[0], given[2])

    @jax.jit
    def run(params, ids, positions, segments):
        def loss(params):
            model = bind(structure, params)
            logits = model.logits(model.hidden(ids, positions, segments))
            log_p = jax.nn.log_softmax(logits)
            log_p = jnp.take_along_axis(log_p, following[..., None], -1)[..., 0]
            return -jnp.sum(log_p * valid), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, logits), gradients = run(params, *given)
    theirs = np.concatenate([reference[f"logits/{name}"] for name in BATCHES])
    seen = given[2] > 0
    np.testing.assert_allclose(np.asarray(logits)[seen], theirs[seen], atol=1e-4)
    np.testing.assert_allclose(loss, reference["loss"], rtol=1e-5)
    expected = our_tree(config, part(reference, "gradients"))

    def same(path, a, b):
        # relative to the tensor; a key's bias has a gradient of rounding errors only
        error, size = float(jnp.linalg.norm(a - b)), float(jnp.linalg.norm(b))
        assert error <= 1e-3 * size + 1e-4, (jax.tree_util.keystr(path), error, size)

    jax.tree_util.tree_map_with_path(same, gradients, expected)
