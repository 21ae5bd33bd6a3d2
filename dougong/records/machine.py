"""What this machine is, in values that JSON can hold: for the run's record and its report. Imports
no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("dougong", "torch", "transformers", "ray", "pydantic", "safetensors", "numpy")


def describe_machine() -> dict[str, Any]:
    """host, platform, python, cpu (model name), cores, memory_bytes, versions (package -> version,
    those installed)."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages whose skew can change a run's bits, read from their metadata without
    importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text(encoding="utf-8").splitlines() if listing.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model name", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()
