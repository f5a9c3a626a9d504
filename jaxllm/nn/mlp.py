"""The feed-forward sublayer: plain, or gated by an activation (Shazeer 2020)."""

from __future__ import annotations

from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxllm.core.errors import unknown
from jaxllm.nn.compute import Compute
from jaxllm.nn.config import MlpConfig
from jaxllm.nn.layers import Linear, dropout
from jaxllm.nn.module import Module

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class Mlp(Module):
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) when not gated."""

    def __init__(
        self, key: jax.Array, compute: Compute, width: int, config: MlpConfig,
        *, stddev: float, output_stddev: float,
    ):
        if config.activation not in ACTIVATIONS:
            raise unknown("model.mlp.activation", config.activation, ACTIVATIONS)
        keys = jax.random.split(key, 3)
        into = partial(
            Linear, compute=compute, inputs={"embed": width}, outputs={"mlp": config.width},
            stddev=stddev, bias=config.bias,
        )
        self.gate = into(keys[0]) if config.gated else None
        self.up = into(keys[1])
        self.down = Linear(
            keys[2], compute, {"mlp": config.width}, {"embed": width},
            stddev=output_stddev, bias=config.bias,
        )
        self.activation, self.dropout, self.compute = config.activation, config.dropout, compute

    def __call__(self, x_BTD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The sublayer's output [B, T, D]; `key` switches on dropout of the hidden units."""
        activate = ACTIVATIONS[self.activation]
        up = checkpoint_name(self.up(x_BTD), "mlp_up")
        if self.gate is None:
            hidden = activate(up)
        else:
            hidden = activate(checkpoint_name(self.gate(x_BTD), "mlp_gate")) * up
        hidden = self.compute.constrain(hidden, "batch", "sequence", "act_mlp")
        return self.down(dropout(hidden, self.dropout, key))
