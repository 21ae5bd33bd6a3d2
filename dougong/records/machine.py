"""What this machine is: for the run's record and its report. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PACKAGES = (
    "dougong",
    "torch",
    "transformers",
    "tokenizers",
    "ray",
    "pydantic",
    "safetensors",
    "numpy",
    "triton",
    "flash-attn",
)
"""Those whose versions can change a run's bits."""


class Machine(BaseModel):
    """One computer. `cpu`: the model's name; `cores`: logical ones; `versions`: package ->
    version, those installed."""

    model_config = ConfigDict(frozen=True)

    host: str = ""
    platform: str = ""
    python: str = ""
    cpu: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    versions: dict[str, str] = {}


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=_cpu_model(),
        cores=os.cpu_count(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        versions=package_versions(),
    )


def package_versions() -> dict[str, str]:
    """Versions of `PACKAGES`, read from their metadata without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """As the kernel calls it; the names of the line differ by architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model name", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()
