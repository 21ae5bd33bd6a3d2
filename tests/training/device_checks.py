"""What the update of a worker does on a simulated device, one function each; run together in a process of a vendor's
own.

SIMDEV_VENDOR=sima python -m tests.training.device_checks
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from dougong.accelerators.staging import SLOT_BYTES, HostLink, Staging
from dougong.checkpoint.snapshot import StateTensor
from dougong.deepspeed.adam_build import load_adam
from dougong.job.optimizers.adamw import AdamW
from dougong.parallel.comm.world import World
from dougong.parallel.trace.checksum import ROWS_AT_ONCE_ELSEWHERE, WIDTH, checksum, checksums
from dougong.training.build import LedgerStart, StepOptions
from dougong.training.memory.holdings import Moment
from dougong.training.memory.part import StatePart, layout_of, num_bytes_of
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.host_adamw import HostAdamW
from dougong.training.results.phases import Phases
from tests.families import config_values
from tests.jobs import make_job, make_rig
from tests.simdev import plugin
from tests.simdev.together import tell
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def what_is_staged_is_what_the_device_had_been_told_by_then() -> None:
    """In pinned memory, which is taken once; whatever becomes of the tensors behind it."""
    staging, places = Staging(), []
    for step in range(2):
        tensors = {name: value + step for name, value in drawn(5).items()}
        staged = {name: staging.copy(name, value) for name, value in tensors.items()}
        staging.wait()
        due = {name: value.cpu() for name, value in tensors.items()}
        for value in tensors.values():
            value.zero_()
        assert all(torch.equal(staged[name], due[name]) for name in SHAPES)
        assert all(value.is_pinned() for value in staged.values())
        places.append({name: value.data_ptr() for name, value in staged.items()})
    assert places[0] == places[1]


def a_snapshot_is_of_the_moment_at_which_it_was_begun() -> None:
    """What the device computes behind it changes nothing of it."""
    values = drawn(6)
    state = [StateTensor("model", name, value) for name, value in values.items()]
    due = {name: value.cpu() for name, value in values.items()}
    layout = layout_of(state)
    link = HostLink(DEVICE)
    torch.accelerator.synchronize()
    for value in values.values():
        value.mul_(2)
    due = {name: value * 2 for name, value in due.items()}
    part = StatePart(Moment(1, 1), None, layout, torch.empty(num_bytes_of(layout), dtype=torch.uint8))
    part.fill(state, link, link.stream.mark())
    assert all(torch.equal(part.tensor(("model", name)), due[name]) for name in SHAPES)


NO_LAUNCH = ("aten.empty.", "profiler.")


class Launches(TorchDispatchMode):
    """Counts calls of operators that are no views and not room alone, by name. One for a list of tensors
    (`_foreach_...`) is one: a vendor computes many of them in a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not str(func).startswith(NO_LAUNCH):
            self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


class CountedPhases(Phases):
    """Counts within the phases in which nothing depends on the batch: sums, norms, ledger, update, new weights."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = Launches()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        with super().__call__(phase):
            if phase not in ("exchange", "update"):
                yield
                return
            with self.launches:
                yield


def launches_of_an_update(num_experts: int) -> Counter[str]:
    """Of the second step of a worker with so many experts in each of three layers."""
    model = {"family": "qwen3_moe", "config": {**config_values("qwen3_moe"), "num_experts": num_experts}}
    phases = CountedPhases()
    with tempfile.TemporaryDirectory() as folder:
        options = StepOptions(phases=phases, ledger=LedgerStart(Path(folder)))
        rig = make_rig(make_job(model=model, precision="bfloat16"), world=World.alone(DEVICE), options=options)
        rig.run(1)
        phases.launches.names.clear()
        rig.stepper.run(2, rig.forwards(2))
    assert len(rig.stepper.optimizer.names) > 6 * num_experts
    return phases.launches.names


def launches_of_a_step_do_not_grow_with_the_number_of_experts() -> None:
    few, many = launches_of_an_update(8), launches_of_an_update(250)
    assert few.total() == many.total() <= 200, (few, many)


def checksums_of_a_device_are_those_of_the_host() -> None:
    """Small tensors are packed there, and large ones taken where they lie."""
    sizes = (1, 3, WIDTH - 1, WIDTH, WIDTH + 1, 5 * WIDTH + 7, 0, WIDTH * (ROWS_AT_ONCE_ELSEWHERE + 1) + 5, 2, 17)
    tensors = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in sizes]
    assert checksums([tensor.to(DEVICE) for tensor in tensors]) == [checksum(tensor) for tensor in tensors]


CHECKS = (
    launches_of_a_step_do_not_grow_with_the_number_of_experts,
    what_is_staged_is_what_the_device_had_been_told_by_then,
    a_snapshot_is_of_the_moment_at_which_it_was_begun,
    checksums_of_a_device_are_those_of_the_host,
    state_that_was_saved_on_the_host_goes_on_where_the_weights_are,
    masters_on_the_host_are_updated_from_gradients_of_the_device,
    tensors_travel_to_the_host_and_back_whatever_their_size,
    a_worker_with_masters_on_the_host_trains_as_with_all_on_the_device,
)


if __name__ == "__main__":
    tell(CHECKS)
