"""Plain processors: the reference that every other accelerator is compared with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from dougong.accelerators.base import Accelerator, switch_on_determinism, thread_environment

if TYPE_CHECKING:
    import torch


class Cpu(Accelerator):
    """Workers share the machine's cores and memory; any number may be asked for."""

    name = "cpu"
    title = "processors"
    standing = "run here"
    also_called = ("host",)
    resource = None
    backend = "gloo"
    visible_devices_variable = None
    shares_machine = True

    def device_count(self, visible: str | None = None) -> int | None:
        return None

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        return thread_environment(threads) | (
            mkl_environment(processor_flags()) if deterministic else {}
        )

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        import torch

        if deterministic:
            switch_on_determinism()
        return torch.device("cpu")

    def describe(self) -> dict[str, str]:
        info = _processor()
        flags = processor_flags()
        widest = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in flags), "none")
        return {
            "name": info.get("model name") or platform.processor() or platform.machine(),
            "cores": str(os.cpu_count()),
            "vector_units": widest,
        }


def mkl_environment(flags: frozenset[str]) -> dict[str, str]:
    """MKL's strict reproducible mode for the widest vector unit among `flags`; nothing where MKL
    does not run.

    By default a row of a float32 product depends on how many rows stand around it and on the number
    of threads; in strict mode on neither. A product then costs about 5 % more (measured on
    AVX-512). That is Intel's processors: on an AMD EPYC the mode was found to be ignored, and
    products of up to three rows to give other bits than larger ones. So nothing here rests on it:
    each product has one shape on every layout.
    """
    if "avx512f" in flags and "avx512dq" in flags:
        return {"MKL_CBWR": "AVX512,STRICT"}
    if "avx2" in flags:
        return {"MKL_CBWR": "AVX2,STRICT"}
    return {}


def processor_flags() -> frozenset[str]:
    """The first processor's feature flags, as Linux names them; empty where it does not say."""
    info = _processor()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def _processor() -> dict[str, str]:
    """The first block of /proc/cpuinfo."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
