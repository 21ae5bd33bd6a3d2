"""What the update of a worker does on a simulated device, one function each; run together in a process of a vendor's
own.

SIMDEV_VENDOR=sima python -m tests.training.device_checks
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable

import torch
from dougong.accelerators.staging import SLOT_BYTES, HostLink
from dougong.deepspeed.adam_build import load_adam
from dougong.job.optimizers.adamw import AdamW
from dougong.parallel.comm.world import World
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.host_adamw import HostAdamW
from tests.jobs import make_job, make_rig
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


def masters_on_the_host_are_updated_from_gradients_of_the_device() -> None:
    """With the bits of gradients that were on the host all the time."""
    settings = AdamW(lr=1e-2, weight_decay=0.3, device="host")
    library = load_adam(make_job(optimizer={"device": "host"}))
    found = []
    for place in (DEVICE, torch.device("cpu")):
        masters = {name: value.cpu() for name, value in drawn(1).items()}
        optimizer = HostAdamW(settings, masters, library)
        for step in range(1, 4):
            # Not waited for: what is on its way must be behind what the device still computes.
            gradients = {name: (value.to(place) * 2).neg() for name, value in drawn(100 + step).items()}
            optimizer.step(gradients, 1e-2 / step)
        found.append(masters)
    assert all(torch.equal(found[0][name], found[1][name]) for name in SHAPES)


def tensors_travel_to_the_host_and_back_whatever_their_size() -> None:
    sizes = (3, SLOT_BYTES // 4 + 5, 1, 2 * SLOT_BYTES // 4, 70)
    sources = [torch.arange(size, dtype=torch.float32).add(number) for number, size in enumerate(sizes)]
    link = HostLink(DEVICE)
    targets = [torch.zeros(size, dtype=torch.bfloat16, device=DEVICE) for size in sizes]
    link.send(zip(targets, sources, strict=True))
    doubled = [target * 2 for target in targets]  # told to the device behind what was sent
    landed = [torch.zeros(size, dtype=torch.bfloat16) for size in sizes]
    for piece in link.pieces(doubled, link.stream.mark()):
        place = landed[piece.number].view(torch.uint8)
        place[piece.begin : piece.begin + len(piece.data)].copy_(piece.data)
    assert all(torch.equal(value, source.bfloat16() * 2) for value, source in zip(landed, sources, strict=True))


def a_worker_with_masters_on_the_host_trains_as_with_all_on_the_device() -> None:
    losses = []
    for changes in ({}, {"optimizer": {"lr": 1e-2, "device": "host"}}):
        rig = make_rig(make_job(precision="bfloat16", **changes), world=World.alone(DEVICE))
        losses.append(rig.run(3))
        place = {master.device.type for master in rig.replica.masters.values()}
        assert place == {"cpu" if changes else DEVICE.type}
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-2, atol=0)


CHECKS = (
    state_that_was_saved_on_the_host_goes_on_where_the_weights_are,
    masters_on_the_host_are_updated_from_gradients_of_the_device,
    tensors_travel_to_the_host_and_back_whatever_their_size,
    a_worker_with_masters_on_the_host_trains_as_with_all_on_the_device,
)


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
