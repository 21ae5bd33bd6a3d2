"""`accelerator: hostsim`: devices that are pretended on the machine's processor.

A real vendor's file looks like this one, without the two methods that are marked: the facts are
what dougong has to know, and `GenericAccelerator` does the rest by torch.accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from dougong.accelerators.base import HOST_VARIABLES
from dougong.accelerators.cpu import mkl_environment, processor_flags
from dougong.accelerators.generic import GenericAccelerator

if TYPE_CHECKING:
    import torch

    from dougong.ops.experts.base import ExpertOp


class Hostsim(GenericAccelerator):
    """One worker per pretended device; a machine has four."""

    name = "hostsim"
    title = "pretended devices"
    device_type = "cpu"  # torch.device(...); a vendor has another, or an open() of its own
    backend = "gloo"  # the collective library inside an island
    resource = "HOSTSIM"  # ray start --resources='{"HOSTSIM": 4}'
    visible_devices_variable = "HOSTSIM_VISIBLE_DEVICES"
    interface_variable = None  # such as NCCL_SOCKET_IFNAME
    tool = "lscpu"  # named in messages
    # plugin, package: a vendor's module that adds the device to torch, and its package
    # device_files: such as /dev/davinci[0-9]*, by which devices are counted; needed without names()
    # peak_rates: what a device computes at most, and who says so
    install = "there is nothing to install"
    environment: ClassVar = {"HOSTSIM_MODE": "plain"}
    deterministic_environment: ClassVar = {
        "HOSTSIM_EXACT": "1",
        **mkl_environment(processor_flags()),
    }
    exact_switches: ClassVar = {"backends.mkldnn.enabled": True}  # in torch
    arithmetic_variables = (*HOST_VARIABLES, "HOSTSIM_")

    def names(self) -> list[str]:
        """Marked: a vendor's are counted by `device_files`."""
        return [f"hostsim{number}" for number in range(4)]

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        """Marked: a vendor's device is opened by torch.accelerator."""
        import torch

        from dougong.accelerators.base import switch_on_determinism

        if deterministic:
            switch_on_determinism()
            self.make_exact()
        return torch.device("cpu")

    def expert_operators(self) -> Iterator[ExpertOp]:
        """Fused forms, fastest first; each is tried before it is trusted. This one is plain torch's
        under another name."""
        from dougong.ops.experts.reference import ByBlock, SwiGLUExpert

        class HostsimExperts(ByBlock):
            """A vendor's own operator is called here."""

        yield HostsimExperts(SwiGLUExpert())
