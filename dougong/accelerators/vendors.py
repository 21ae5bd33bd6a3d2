"""Vendors whose devices are data alone, as their public documents describe them. None of these has
been opened by the project; `docs/accelerators.md` says what each row rests on."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from dougong.accelerators.base import HOST_VARIABLES
from dougong.accelerators.facts import Default
from dougong.accelerators.generic import GenericAccelerator


class Mlu(GenericAccelerator):
    """One worker per MLU."""

    name = "mlu"
    title = "Cambricon MLUs"
    also_called = ("cambricon",)
    device_type = "mlu"
    plugin = "torch_mlu"
    package = "torch-mlu"
    install = "install Cambricon's driver, Neuware and its build of torch_mlu for this torch"
    backend = "cncl"
    resource = "MLU"
    visible_devices_variable = "MLU_VISIBLE_DEVICES"
    device_files = "/dev/cambricon_dev[0-9]*"
    tool = "cnmon"
    exact_switches: ClassVar = {
        "backends.mlu.matmul.allow_tf32": False,
        "backends.cnnl.allow_tf32": False,
    }
    arithmetic_variables = (*HOST_VARIABLES, "CNCL_ALGO", "CNNL_", "TORCH_ALLOW_TF32")
    defaults = (
        Default(
            "PYTORCH_MLU_ALLOC_CONF",
            "expandable_segments:True",
            ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
        ),
    )


class Musa(GenericAccelerator):
    """One worker per GPU of Moore Threads'."""

    name = "musa"
    title = "Moore Threads GPUs"
    also_called = ("mthreads", "moore-threads")
    device_type = "musa"
    plugin = "torch_musa"
    package = "torch-musa"
    install = "install Moore Threads' driver, MUSA and its build of torch_musa for this torch"
    backend = "mccl"
    interface_variable = "MCCL_SOCKET_IFNAME"
    interface_form = "{}"
    resource = "MUSA"
    visible_devices_variable = "MUSA_VISIBLE_DEVICES"
    device_files = "/dev/mtgpu.[0-9]*"
    tool = "mthreads-gmi"
    exact_switches: ClassVar = {"backends.mudnn.allow_tf32": False}
    arithmetic_variables = (*HOST_VARIABLES, "MCCL_ALGO", "MCCL_PROTO", "MUDNN_", "MUBLAS_")
    defaults = (Default("PYTORCH_MUSA_ALLOC_CONF", "expandable_segments:True"),)


class Gcu(GenericAccelerator):
    """One worker per GCU."""

    name = "gcu"
    title = "Enflame GCUs"
    also_called = ("enflame", "tops")
    device_type = "gcu"
    plugin = "torch_gcu"
    package = "torch-gcu"
    install = "install Enflame's driver, TopsRider and its build of torch_gcu for this torch"
    backend = "eccl"
    interface_variable = "ECCL_SOCKET_IFNAME"
    interface_form = "{}"
    resource = "GCU"
    visible_devices_variable = "TOPS_VISIBLE_DEVICES"
    device_files = "/dev/gcu[0-9]"
    tool = "efsmi"
    arithmetic_variables = (*HOST_VARIABLES, "ENFLAME_", "ECCL_ALGO")


class Xpu(GenericAccelerator):
    """One worker per GPU of Intel's."""

    name = "xpu"
    title = "Intel GPUs"
    also_called = ("intel",)
    device_type = "xpu"
    build = "xpu"
    build_tag = "xpu"
    install = "install an XPU build of the same version, or use accelerator: cpu"
    backend = "xccl"
    resource = "GPU"
    visible_devices_variable = "ZE_AFFINITY_MASK"
    device_files = "/sys/class/drm/renderD*"
    tool = "xpu-smi"
    arithmetic_variables = (*HOST_VARIABLES, "CCL_ALLREDUCE", "CCL_REDUCE", "TORCH_ONEDNN")

    def names(self) -> list[str]:
        """Of the machine's render nodes those of Intel's, by their PCI vendor."""
        return [name for name in super().names() if _pci_vendor(name) == "0x8086"]


def _pci_vendor(render_node: str) -> str:
    file = Path("/sys/class/drm") / render_node / "device" / "vendor"
    return file.read_text().strip() if file.is_file() else ""
