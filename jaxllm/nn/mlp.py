"""The feed-forward sublayer: plain, or gated by an activation (Shazeer 2020).

Shapes: B batch, T tokens, P devices that share them, n chunks of C tokens of each, D width,
F hidden units.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxllm.core.errors import unknown
from jaxllm.core.mesh import Sharding
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
        self.width, self.bias = config.width, config.bias

    def __call__(self, x_BTD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The sublayer's output [B, T, D]; `key` switches on dropout."""
        chunks = self._chunks(x_BTD, drops=key is not None and self.dropout > 0)
        if chunks > 1:
            plan = _Plan(self.compute.sharding, self.activation, chunks)
            kernels = (
                None if layer is None else layer.matrix()
                for layer in (self.gate, self.up, self.down)
            )
            return _chunked(plan, x_BTD, *kernels)
        activate = ACTIVATIONS[self.activation]
        up = checkpoint_name(self.up(x_BTD, key), "mlp_up")
        if self.gate is None:
            hidden = activate(up)
        else:
            hidden = activate(checkpoint_name(self.gate(x_BTD, key), "mlp_gate")) * up
        hidden = self.compute.constrain(hidden, "batch", "sequence", "act_mlp")
        return self.down(dropout(hidden, self.dropout, key), key)

    def _chunks(self, x_BTD: jax.Array, drops: bool) -> int:
        """Into how many chunks the backward pass cuts a device's tokens; 1: not at all."""
        compute, sharding = self.compute, self.compute.sharding
        tokens = x_BTD.shape[0] * x_BTD.shape[1] // sharding.parts("tokens")
        uneven = any(
            n % sharding.parts(axis)
            for n, axis in zip(x_BTD.shape, ("batch", "sequence"), strict=False)
        )
        plain = all(layer.plain for layer in (self.gate, self.up, self.down) if layer is not None)
        if self.bias or drops or uneven or not plain or compute.saves("mlp_up"):
            return 1
        units = self.width // sharding.parts("act_mlp")
        wanted = -(-tokens // compute.mlp_tokens(units))
        return next((n for n in range(wanted, 8 * wanted + 1) if tokens % n == 0), 1)


class _Plan(NamedTuple):
    """What `_chunked` is told apart from arrays."""

    sharding: Sharding
    activation: str
    chunks: int


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(plan: _Plan, x_BTD, gate_DF, up_DF, down_FD):
    """The sublayer, whose backward pass has the hidden units of one chunk of tokens at a time.

    They are formed again there, as under remat: five arrays of [tokens, F] would otherwise be the
    most that a layer's backward pass holds. The kernels' gradients are added up over the chunks.
    """
    hidden = _activated(plan, *_products(x_BTD, gate_DF, up_DF))
    hidden = plan.sharding.constrain(hidden, "batch", "sequence", "act_mlp")
    return hidden @ down_FD


def _chunked_forward(plan, x_BTD, gate_DF, up_DF, down_FD):
    return _chunked(plan, x_BTD, gate_DF, up_DF, down_FD), (x_BTD, gate_DF, up_DF, down_FD)


def _chunked_backward(plan, residuals, dy_BTD):
    x_BTD, gate_DF, up_DF, down_FD = residuals
    sharding = plan.sharding

    def cut(x):
        x = sharding.by_device(x)
        x = x.reshape(x.shape[0], plan.chunks, -1, x.shape[-1]).swapaxes(0, 1)
        return sharding.constrain(x, None, "tokens", None, None)

    def weighed(total_PIO, inputs_PCI, outputs_PCO):
        """A kernel's gradient with a chunk's part added, each device its own."""
        return total_PIO + jnp.einsum(
            "pci,pco->pio", inputs_PCI, outputs_PCO, preferred_element_type=jnp.float32
        )

    def chunk(totals, scanned):
        x_PCD, dy_PCD = scanned
        hidden, pull = jax.vjp(lambda *a: _activated(plan, *a), *_products(x_PCD, gate_DF, up_DF))
        dhidden = dy_PCD @ down_FD.T
        dgate, dup = pull(dhidden)
        dx_PCD = dup @ up_DF.T
        if gate_DF is not None:
            dx_PCD = dx_PCD + dgate @ gate_DF.T
            totals["gate"] = weighed(totals["gate"], x_PCD, dgate)
        totals["up"] = weighed(totals["up"], x_PCD, dup)
        totals["down"] = weighed(totals["down"], hidden, dy_PCD)
        return totals, sharding.constrain(dx_PCD, "tokens", None, None)

    parts, axes = sharding.parts("tokens"), {"gate": ("embed", "mlp"), "up": ("embed", "mlp")}
    axes["down"] = ("mlp", "embed")
    kernels = {"gate": gate_DF, "up": up_DF, "down": down_FD}
    kernels = {name: k for name, k in kernels.items() if k is not None}
    local = {  # a device has the whole of `embed` here, and its share of the units
        name: ("tokens", *sharding.gathered(axes[name])) for name in kernels
    }
    totals = {
        name: sharding.constrain(jnp.zeros((parts, *k.shape), jnp.float32), *local[name])
        for name, k in kernels.items()
    }
    totals, dx = jax.lax.scan(chunk, totals, (cut(x_BTD), cut(dy_BTD)))
    dx_PND = dx.swapaxes(0, 1).reshape(parts, -1, x_BTD.shape[-1])
    gradients = {
        name: sharding.summed(
            lambda mine, k=kernels[name]: mine[0].astype(k.dtype), (total, local[name]),
            axes=axes[name],
        )
        for name, total in totals.items()
    }
    dx_BTD = sharding.by_row(dx_PND, x_BTD.shape[0])
    return dx_BTD, *(gradients.get(name) for name in ("gate", "up", "down"))


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _products(x, gate_DF, up_DF):
    """What the activation is given: the gate's and the other projection's outputs."""
    return None if gate_DF is None else x @ gate_DF, x @ up_DF


def _activated(plan: _Plan, gate, up):
    activate = ACTIVATIONS[plan.activation]
    return activate(up) if gate is None else activate(gate) * up
