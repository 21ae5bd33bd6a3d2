"""What a vendor's plug-in package does when it is imported: `torch.device("sima")`, `torch.sima`, `simaccl`.

The vendor is that of the environment (`SIMDEV_VENDOR`); a process has one.
"""

from __future__ import annotations

import os
import sys
import traceback
import types
from collections import Counter
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from tests.simdev import build

VENDOR = os.environ.get("SIMDEV_VENDOR", "sima")
LIBRARY = os.environ.get("SIMDEV_LIBRARY", f"{VENDOR}ccl")
_REFUSES_TWINS = os.environ.get("SIMDEV_REFUSES_TWINS", "1") == "1"

native: Any = build.load()


class HostWaits:
    """Where the host has waited for the device: by the innermost line of dougong, and by what it waited for."""

    def __init__(self, root: str = "/dougong/") -> None:
        self.places: Counter[str] = Counter()
        self._root = root

    def __enter__(self) -> HostWaits:
        native.watch_host_waits(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        native.watch_host_waits(None)

    def _note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack()[:-1] if self._root in frame.filename]
        if frames:
            file = frames[-1].filename.partition(self._root)[2]
            self.places[f"{file}:{frames[-1].name} {what}"] += 1
        else:
            last = traceback.extract_stack()[-2]
            self.places[f"elsewhere, {last.filename.rpartition('site-packages/')[2]}:{last.name} {what}"] += 1


class _DeviceModule(ModuleType):
    """`torch.VENDOR`, with the names that vendors' modules have."""

    def __init__(self) -> None:
        super().__init__(f"torch.{VENDOR}")
        self.device_count = native.device_count
        self.current_device = native.current_device
        self.counts = native.counts
        self.forget_counts = native.forget_counts

    def is_available(self) -> bool:
        return bool(native.device_count())

    def is_initialized(self) -> bool:
        return True

    def init(self) -> None: ...

    def _lazy_init(self) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    def set_device(self, device: int | str | torch.device) -> None:
        index = device if isinstance(device, int) else torch.device(device).index or 0
        native.set_device(index)

    def manual_seed(self, seed: int) -> None:
        native.default_generator(native.current_device()).manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        for index in range(native.device_count()):
            native.default_generator(index).manual_seed(seed)

    def get_rng_state(self, device: int | str | torch.device | None = None) -> torch.Tensor:
        return self._generator(device).get_state()

    def set_rng_state(self, state: torch.Tensor, device: int | str | torch.device | None = None) -> None:
        self._generator(device).set_state(state.cpu())

    def synchronize(self, device: Any = None) -> None:
        torch.accelerator.synchronize(device)

    def current_stream(self, device: Any = None) -> torch.Stream:
        return torch.accelerator.current_stream(device)

    def empty_cache(self) -> None: ...

    def memory_allocated(self, device: Any = None) -> int:
        return torch.accelerator.memory_allocated(device)

    def max_memory_allocated(self, device: Any = None) -> int:
        return torch.accelerator.max_memory_allocated(device)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return torch.accelerator.get_memory_info(device)

    def get_device_name(self, device: Any = None) -> str:
        return f"simulated {VENDOR}"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_bf16_supported(self) -> bool:
        return True

    def get_device_properties(self, device: Any = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(name=self.get_device_name(), total_memory=self.mem_get_info(device)[1])

    def _generator(self, device: int | str | torch.device | None) -> torch.Generator:
        place = torch.device(VENDOR, device) if isinstance(device, int) else torch.device(device or VENDOR)
        index = native.current_device() if place.index is None else place.index
        found: torch.Generator = native.default_generator(index)
        return found


def _collectives(options: Any, _group_options: Any = None) -> Any:
    """A process group of this vendor's library. All its ranks have to be of one vendor: each says whose it is."""
    store = options.store
    key = f"{LIBRARY}/{options.group_id}/vendor"
    store.set(f"{key}/{options.group_rank}", VENDOR)
    for rank in range(options.group_size):
        other = store.get(f"{key}/{rank}").decode()
        if other != VENDOR:
            raise RuntimeError(f"{LIBRARY}: rank {rank} is on {other}, this one on {VENDOR}: no common library")
    inner = dist.ProcessGroupGloo(store, options.group_rank, options.group_size, options.timeout)
    return native.collectives(inner, LIBRARY, _REFUSES_TWINS)


torch.utils.rename_privateuse1_backend(VENDOR)
module = _DeviceModule()
sys.modules[f"torch.{VENDOR}"] = module
torch._register_device_module(VENDOR, module)
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
dist.Backend.register_backend(LIBRARY, _collectives, extended_api=True, devices=[VENDOR])
