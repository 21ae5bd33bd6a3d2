"""The probe of an update in the machine's memory (`optimizer.device: host`): a processor's own
bits, whatever the device beside it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dougong.deepspeed.cpu_adam import AdamNumbers, AdamRates, CpuAdam
from dougong.fingerprint.bench import Bench, Probes

_COUNT = 10007
_STEPS = 3


def host_probes(library: Any) -> Probes:
    """`library`: DeepSpeed's `cpu_adam`."""
    bench = Bench(torch.device("cpu"))

    def adamw() -> tuple[Tensor, ...]:
        weight = bench.values("p", _COUNT)
        moments = torch.zeros(_COUNT), torch.zeros(_COUNT)
        adam = CpuAdam(library, (0.9, 0.95), 1e-8)
        for step in range(1, _STEPS + 1):
            numbers = AdamNumbers(weight, bench.values(f"g{step}", _COUNT), *moments)
            adam.update(numbers, AdamRates(1e-3, 0.1, step))
        return (weight, *moments)

    yield "adamw on the host float32", adamw
