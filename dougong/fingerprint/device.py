"""A device in words: what may explain that its bits are others."""

from __future__ import annotations

import re

import torch

from dougong.accelerators.base import toolkit_version

_LIBRARY = re.compile(r"(?:Math Kernel Library Version|MKL-DNN v)[^(\n]*")


def describe(device: torch.device) -> dict[str, str]:
    """What may explain a difference: torch and its libraries, threads, the processor's capability,
    the device."""
    entries = {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "libraries": ", ".join(_LIBRARY.findall(torch.__config__.show())),
    }
    if device.type != "cpu":
        module = torch.get_device_module(device)
        properties = module.get_device_properties(device)
        entries["toolkit"] = toolkit_version()
        entries["device"] = str(module.get_device_name(device))
        entries["multiprocessors"] = str(getattr(properties, "multi_processor_count", ""))
    return {name: value.strip() for name, value in entries.items() if value}
