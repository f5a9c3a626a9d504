"""The accelerators that a plan can be for, with the figures that memory and step time follow from.

Sources: [G] Google's page of that TPU (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x);
[S] Austin et al. 2025, "How to Scale Your Model", chapter 2; [X] the memory that XLA says a program
may use ("Used … of …G hbm"), a little less than the data sheet's, as remembered from its messages;
[P] jax's Pallas (mosaic/tpu_info.py), for VMEM; [N] NVIDIA's data sheet. The link to the host's
memory is [S]'s: about 15 GB/s a chip, 32 on v6e, "about 2x higher than v5". That of TPU7x is
assumed to be v6e's. GPUs: PCIe Gen5, half of the 128 GB/s of both directions [N].
Bandwidths are bytes/s, in one direction where not said otherwise; GB is 1e9, GiB 2**30.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.devices import PEAK_FLOPS
from jaxllm.core.errors import UserError, nearest

GB, GIB, MIB = 1e9, 2**30, 2**20


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator. Rates and sizes are of a chip; `devices` is how many jax sees."""

    name: str
    kind: str  # its name in core/devices.PEAK_FLOPS, whose peak is a jax device's
    devices: int  # jax devices of a chip
    cores: int  # what Cloud's names count per chip: TensorCores of v4, v5p and TPU7x
    hbm_bytes: float  # that programs may use
    hbm_bandwidth: float
    ici_link: float  # of a link of the interconnect; a GPU: all its NVLinks together
    torus: int  # dimensions of the interconnect; 0: a switch joins the chips of a host
    wrap: int  # a side of so many chips (v5e, v6e), or of a multiple of it, closes to a ring
    dcn: float  # to chips elsewhere: of the network between slices, or between GPU hosts
    vmem_bytes: float  # of a TensorCore
    host_ram: float  # bytes of a host
    host_chips: int
    host_link: float  # of a chip to that memory, one way
    mxu: int  # side of the matrix unit: narrower products leave a part of it idle; 0: no matter
    sustained: float  # of the peak that a large product can keep up (GPUs: their power limit)
    source: str

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s of the chip."""
        return PEAK_FLOPS[self.kind] * self.devices


def _row(name, kind, devices, cores, hbm, bandwidth, link, torus, wrap, dcn, vmem, ram, chips, host,
         mxu, source, sustained=1.0):
    return Chip(
        name, kind, devices, cores, hbm * GIB, bandwidth * GB, link * GB, torus, wrap,
        dcn / 8 * GB, vmem * MIB, ram * GB, chips, host * GB, mxu, sustained, source,
    )


# devices, cores | HBM GiB, GB/s | link GB/s, torus, wrap | DCN Gbit/s | VMEM MiB | host GB, chips,
# GB/s | matrix unit. Links: ICI per chip, both directions, over 2 x torus links ([G]; [S] measures
# 10 % less on v6e, the same on the others).
CHIPS = {
    chip.name: chip
    for chip in (
        _row("v4", "TPU v4", 1, 2, 30.75, 1200, 45, 3, 4, 50, 16, 407, 4, 15, 128, "G, S, X, P"),
        _row("v5e", "TPU v5e", 1, 1, 15.75, 819, 45, 2, 16, 25, 128, 400, 8, 16, 128, "G, S, X, P"),
        _row("v5p", "TPU v5p", 1, 2, 95.74, 2765, 90, 3, 4, 50, 64, 448, 4, 16, 128, "G, S, X, P"),
        _row("v6e", "TPU v6e", 1, 1, 31.25, 1638, 90, 2, 16, 100, 128, 1440, 8, 32, 256,
             "G, S, X, P"),
        _row("tpu7x", "TPU7x", 2, 2, 189.5, 7380, 90, 3, 4, 100, 64, 960, 4, 32, 256, "G, X, P"),
        _row("h100", "H100", 1, 1, 79.1, 3350, 450, 0, 0, 400, 0, 2048, 8, 64, 0, "N", 0.8),
        _row("h200", "H200", 1, 1, 140.4, 4800, 450, 0, 0, 400, 0, 2048, 8, 64, 0, "N", 0.8),
    )
}
ALIASES = {
    "v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e", "v6litepod": "v6e", "v5": "v5p",
    "ironwood": "tpu7x", "v7x": "tpu7x", "v7": "tpu7x", "tpu7": "tpu7x",
}


def find_chip(name: str, field: str = "--topology") -> Chip:
    """The chip of this name or of another name for it.

    Raises:
      UserError: there is none.
    """
    name = name.lower()
    name = ALIASES.get(name, name)
    if name not in CHIPS:
        close = nearest(name, (*CHIPS, *ALIASES), listed=False)
        raise UserError(
            f"{field}: {name!r} is no chip that is known here. There are {', '.join(CHIPS)}. "
            f"{close}".rstrip()
        )
    return CHIPS[name]
