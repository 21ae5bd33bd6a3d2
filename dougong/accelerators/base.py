"""What dougong asks of a kind of device: a few facts and ten methods.

One small file per kind implements them. They are called in three kinds of process. A node's *agent*
never imports torch: it uses the facts, `device_count`, `worker_environment`, `describe`,
`memory_bytes`, if it is known, and `device_keys`. A *worker* calls `open` once, takes
`expert_operators` if there are any, and leaves the others of its island by `abort` when one of them
is lost. Beside the agent a process of its own reads how the devices are, by `telemetry`.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from dougong.accelerators.determinism import apply_exemptions

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

    from dougong.accelerators.facts import Default, PeakRates, Refused, Standing
    from dougong.accelerators.telemetry.reading import DeviceReading, Telemetry
    from dougong.ops.experts.base import ExpertOp

HOST_VARIABLES = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "OPENBLAS_", "BLIS_",
    "ATEN_CPU_CAPABILITY", "TORCH_BLAS_PREFER",
)  # fmt: skip
"""Beginnings of the names of variables that the math libraries of a processor read."""


class Accelerator(ABC):
    """One kind of device. Objects hold no state: the process's current device is the vendor
    library's own."""

    name: ClassVar[str]
    """What a job file says: `accelerator: cuda`."""
    resource: ClassVar[str | None]
    """Ray's name for one device, such as `GPU`; None where workers share the machine."""
    backend: ClassVar[str]
    """torch.distributed's native backend inside an island."""
    visible_devices_variable: ClassVar[str | None]
    """The environment variable that narrows which devices a process sees; None where there is
    none."""
    interface_variable: ClassVar[str | None] = None
    """The environment variable in which the native backend reads which network interface it speaks
    over; None where it reads none."""
    shares_machine: ClassVar[bool] = False
    """Whether all workers of a machine share one device, so that any number of them may start; else
    each has a device of its own."""
    fused_attention: ClassVar[bool] = True
    """Whether torch's attention here makes no matrix of scores; a plan counts the memory."""
    arithmetic_variables: ClassVar[tuple[str, ...]] = HOST_VARIABLES
    """Beginnings of the names of environment variables that can change a kernel's bits, or the
    order of sums, here."""
    agreed_variables: ClassVar[tuple[str, ...]] = ()
    """Those of them that the native backend must find alike on all workers of an island."""
    interface_form: ClassVar[str] = "={}"
    """How an interface is written in `interface_variable`; by default as libraries take it that
    read a bare name as the beginning of several."""
    defaults: ClassVar[tuple[Default, ...]] = ()
    """Of workers' variables that a user may set otherwise."""
    refused: ClassVar[tuple[Refused, ...]] = ()
    """Values of variables that break what a deterministic job promises."""
    title: ClassVar[str] = ""
    """The vendor and its devices, for people."""
    standing: ClassVar[Standing] = "from documents"
    """How far the project has tried this kind of device."""
    also_called: ClassVar[tuple[str, ...]] = ()
    """Words that people write for it; a job file that says one is told the right one."""
    tool: ClassVar[str] = ""
    """The vendor's command that shows a machine's devices, for messages."""
    fused_operators: ClassVar[tuple[str, ...]] = ()
    """The modules of `dougong.ops` that hold the fused forms which `expert_operators` offers."""
    peak_rates: ClassVar[tuple[PeakRates, ...]] = ()
    """Of models of devices, for the part of them that a run makes use of."""

    @property
    def has_expert_operators(self) -> bool:
        """Whether this kind offers fused forms of experts at all."""
        return type(self).expert_operators is not Accelerator.expert_operators

    @abstractmethod
    def device_count(self, visible: str | None = None) -> int | None:
        """How many workers this machine has devices for; None: any number. Opens no device and
        imports no torch.

        `visible` is the value of `visible_devices_variable` in this process, None where it is not
        set.
        """

    @abstractmethod
    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        """Variables that must stand in a worker's environment before torch is imported, for
        `threads` CPU threads.

        They are part of the arithmetic: number of threads, modes of the math library, deterministic
        switches. Without `deterministic` (a job with `determinism: off`), only what a worker cannot
        do without.
        """

    def interface_variables(self, interface: str | None) -> dict[str, str]:
        """Has the native backend speak over this interface; nothing where there is none, or where
        the backend reads no variable."""
        if interface is None or self.interface_variable is None:
            return {}
        return {self.interface_variable: self.interface_form.format(interface)}

    @abstractmethod
    def open(self, index: int, deterministic: bool = True) -> torch.device:
        """Load the vendor's library, make device `index` (of the visible ones) current, and switch
        determinism on, if it is wanted.

        Raises DeviceError that says what was found and what to install.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device, driver and library versions as found without opening a device; for the report and
        the logs."""

    def memory_bytes(self) -> int | None:
        """Memory of this machine's largest device, found without opening one; None: not known, and
        then no plan is refused for it.

        Asked of an agent. Not of a kind that shares its machine: there the machine's counts.
        """
        return None

    def peak_rate(self, device: str, dtype: str) -> float | None:
        """FLOP/s at most of a device of this name, as `describe` has it; None where the vendor's
        figure is not among `peak_rates`."""
        for rates in self.peak_rates:
            if rates.model in device:
                return rates.per_s.get(dtype)
        return None

    def missing(self) -> str:
        """What this machine lacks to use a device of this kind, as far as packages tell without
        being imported; empty when nothing is known to be missing."""
        return ""

    tells_health: ClassVar[bool] = False
    """Whether devices of this kind say how they are: `telemetry` and `device_keys` are there."""

    def telemetry(self) -> Telemetry | None:
        """What reads the health of this machine's devices, begun now; None: nothing does.

        Asked of a process that does nothing else. Raises DeviceError that says what is missing.
        """
        return None

    def device_keys(self) -> tuple[str, ...]:
        """The devices' keys, as readings have them, by number; nothing where they are not known.

        Asked of an agent.
        """
        return ()

    def expert_operators(self) -> Iterator[ExpertOp]:
        """Fused forms of SwiGLU experts that this kind of device offers, fastest first; none by
        default.

        Asked of a worker, after `open`. A form is taken only if it passes a trial on a small input
        (`ops.experts.choose`), so that one which does not fit costs time, not bits.
        """
        yield from ()

    def abort(self, groups: Sequence[dist.ProcessGroup]) -> None:
        """Have what is under way in these groups of the native backend end at once, in this process
        alone: a kernel that waits for a peer which is gone has no other end. Nothing may be begun
        in them afterwards. Any thread may call this."""
        for group in groups:
            group.abort()


def thread_environment(threads: int) -> dict[str, str]:
    """Exactly `threads` compute threads in every math library, and no plug-in that `import torch`
    would load by itself.

    The number of threads changes bits (how a long sum is split), so libraries must not choose it.
    The plug-in of an accelerator is imported by its `open`: one that is installed but broken must
    not stop the others' workers.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }


def package_version(name: str) -> str | None:
    """A package's version from its metadata; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def toolkit_version() -> str:
    """Of the vendor's toolkit that torch itself is built with; empty for a build for processors,
    and where a plug-in brings it."""
    import torch

    return torch.version.cuda or torch.version.hip or torch.version.xpu or ""


def visible_count(found: int, visible: str | None) -> int:
    """How many of `found` devices a `..._VISIBLE_DEVICES` value leaves: read up to its first
    invalid entry."""
    if visible is None:
        return found
    count = 0
    for entry in (part.strip() for part in visible.split(",")):
        named = entry.startswith(("GPU-", "MIG-"))  # a UUID instead of a number
        if not named and not (entry.isdigit() and int(entry) < found):
            break
        count += 1
    return min(count, found)


def visible_keys(keys: Sequence[str], visible: str | None) -> list[tuple[str, str]]:
    """(entry, key) of the devices that a `..._VISIBLE_DEVICES` value leaves, in its order: by
    number, or by how a key begins. `keys`: of all, by number."""
    if visible is None:
        return [(str(number), key) for number, key in enumerate(keys)]
    found = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit() and int(entry) < len(keys):
            found.append((entry, keys[int(entry)]))
            continue
        named = [key for key in keys if entry and key.startswith(entry)]
        if len(named) != 1:
            break  # as a vendor's library reads it: up to the first invalid entry
        found.append((entry, named[0]))
    return found


def without_devices(keys: Sequence[str], visible: str | None, avoided: Collection[str]) -> str:
    """The `..._VISIBLE_DEVICES` value that leaves these out, by their keys."""
    kept = [entry for entry, key in visible_keys(keys, visible) if key not in avoided]
    return ",".join(kept)


def visible_readings(
    readings: Sequence[DeviceReading], visible: str | None
) -> dict[int, DeviceReading]:
    """By the number that a worker knows a device by."""
    by_key = {reading.key: reading for reading in readings}
    keys = [reading.key for reading in sorted(readings, key=lambda one: one.number)]
    found = visible_keys(keys, visible)
    return {number: by_key[key] for number, (_, key) in enumerate(found)}


def enter_device(device: torch.device) -> None:
    """Have what this thread does from now on belong to the worker's device. Which one is current is
    each thread's own: one that has chosen none is refused (ACL: 107002, context is empty) or opens
    the first device beside the worker's (CUDA)."""
    import torch

    kind = torch.accelerator.current_accelerator()
    if kind is not None and kind.type == device.type:
        torch.accelerator.set_device_index(device.index or 0)


def switch_on_determinism() -> None:
    """Deterministic forms of torch's operators on every device; one that has none raises, with its
    name, when it is called (`determinism.refuse_unordered`)."""
    import torch

    # Strictly: while torch merely warns, the backward of flash and memory-efficient attention adds
    # in no fixed order, although both have a deterministic form (seen on an H200: other bits in
    # most runs from 1024 tokens on).
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory finds bugs but costs a pass over every buffer.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    kind = torch.accelerator.current_accelerator()
    if kind is not None:
        apply_exemptions(kind.type)
