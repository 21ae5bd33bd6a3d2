"""What the update of a worker does on a simulated device, one function each; run together in a process of a vendor's
own.

SIMDEV_VENDOR=sima python -m tests.training.device_checks
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable

import torch
from dougong.job.optimizers.adamw import AdamW
from dougong.training.optimizers.adamw import OwnedAdamW
from tests.simdev import plugin
from torch import Tensor

DEVICE = torch.device(plugin.VENDOR, 0)
SETTINGS = AdamW(lr=1e-2, weight_decay=0.3)
SHAPES = {"head": (9, 7), "experts[0]": (5, 3, 2), "norm": (7,), "scalar": ()}


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(DEVICE) for name, shape in SHAPES.items()}


def run(optimizer: OwnedAdamW, steps: Iterable[int]) -> None:
    for step in steps:
        optimizer.step(drawn(100 + step), 1e-2 / step)


def state_that_was_saved_on_the_host_goes_on_where_the_weights_are() -> None:
    whole, parts = drawn(1), drawn(1)
    run(OwnedAdamW(SETTINGS, whole), range(1, 5))
    first = OwnedAdamW(SETTINGS, parts)
    run(first, range(1, 4))
    saved = [(kind, name, value.cpu().clone()) for kind, name, value in first.state()]
    resumed = OwnedAdamW(SETTINGS, parts)
    for kind, name, value in saved:
        resumed.load(kind, name, value)
    # The fused update reads the count of updates where the weights are: no kind may stay behind.
    assert {(kind, value.device) for kind, _, value in resumed.state()} == {
        (kind.name, DEVICE) for kind in OwnedAdamW.declaration.state_kinds
    }
    run(resumed, [4])
    assert all(torch.equal(parts[name].cpu(), whole[name].cpu()) for name in SHAPES)


CHECKS = (state_that_was_saved_on_the_host_goes_on_where_the_weights_are,)


def main() -> None:
    """Print what has become of each: nothing, or its traceback."""
    torch.accelerator.set_device_index(0)
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = ""
        except Exception:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
