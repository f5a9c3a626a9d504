"""What each remat policy of `nn/compute.py` keeps for the backward pass, by name.

The names are those that the layers give to their values (`checkpoint_name`), and those of products
without a name, which a policy can only keep along with all products: output and down (of the
attention and the MLP), cross_key and cross_value. "between" is everything that lies between them:
norms, rotations, the MLP's hidden units.
NAME_input_offload keeps the layers' inputs on the host and the rest as NAME; NAME_offload keeps all
of it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.errors import unknown

PRODUCTS = frozenset({
    "query", "key", "value", "output", "mlp_gate", "mlp_up", "down", "cross_key", "cross_value",
})


@dataclass(frozen=True)
class Remat:
    """A policy: what is kept on the device, what on the host; the rest is computed again."""

    name: str
    saved: frozenset[str]
    offloaded: frozenset[str] = frozenset()  # with "input", the layer's input

    @property
    def kept(self) -> frozenset[str]:
        """What is not computed again, wherever it lies."""
        return self.saved | (self.offloaded - _INPUT)

    def keeps(self, name: str) -> bool:
        """Whether the backward pass finds this value."""
        return name in self.saved or name in self.offloaded


_INPUT = frozenset({"input"})
_KEPT = (
    Remat("full", frozenset()),
    Remat("attention", frozenset({"attention"})),
    Remat("kv", frozenset({"attention", "key", "value"})),
    Remat("projections", frozenset({"attention", "key", "value", "query"})),
    Remat("mlp", frozenset({"attention", "key", "value", "query", "mlp_gate", "mlp_up"})),
)
POLICIES = {
    policy.name: policy
    for policy in (
        Remat("none", PRODUCTS | {"attention", "between"}),
        *_KEPT,
        Remat("dots", PRODUCTS),
        *(Remat(f"{kept.name}_input_offload", kept.saved, _INPUT) for kept in _KEPT),
        *(
            Remat(f"{kept.name}_offload", frozenset(), kept.saved | _INPUT)
            for kept in _KEPT if kept.saved
        ),
    )
}


def find_remat(name: str) -> Remat:
    """The policy of this name.

    Raises:
      UserError: there is none.
    """
    if name not in POLICIES:
        raise unknown("train.remat", name, POLICIES)
    return POLICIES[name]
