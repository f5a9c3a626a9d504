"""What the recorder makes of its numbers: a share above the whole is no share."""

import pytest

from jaxllm.train import recorder as module
from jaxllm.train.recorder import Clock, Recorder


@pytest.mark.parametrize(("peak", "rate", "mfu"), [
    (1e9, 4e9, 0.5), (1e9, 8e9, 1.0), (1e9, 9e9, None), (None, 1e9, None),
])
def test_mfu(monkeypatch, peak, rate, mfu):
    """`peak` of each of eight devices."""
    monkeypatch.setattr(module, "peak_flops", lambda device: peak)
    recorder = Recorder(
        None, None, Clock(), log_every=1, steps=1, start=0, flops_per_step=1.0, tokens=0
    )
    assert recorder._mfu(rate) == mfu
