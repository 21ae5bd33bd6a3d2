"""A worker's task before any plan: the fingerprint of its device, measured or found in the user's
cache.

The cache is a folder of small files, `~/.cache/dougong/fingerprints/KEY.json`. The key holds
everything that an answer depends on, so a file is never wrong, only unused; one that is damaged
counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import arithmetic_variables, read_visible_devices
from dougong.fingerprint.record import PRECISIONS, Fingerprint, JobShapes, question_of
from dougong.job.schema import Job
from dougong.records.machine import package_versions

# Beginnings of the names of variables that math libraries read.
VARIABLES = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_CPU_CAPABILITY", "OPENBLAS_",
    "BLIS_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32",
    "TORCH_BLAS_PREFER", "HCCL_DETERMINISTIC", "LCCL_DETERMINISTIC", "CLOSE_MATMUL_K_SHIFT",
    "ATB_MATMUL_SHUFFLE_K_ENABLE",
)  # fmt: skip


@dataclass(frozen=True)
class Probing:
    """Whose arithmetic to look at: a device by its accelerator and number, and the job that it is
    for.

    `job` None: the general probes in every precision. `shapes` None: no probes of the job's own
    sizes.
    """

    accelerator: str
    index: int = 0
    job: Job | None = None
    shapes: JobShapes | None = None
    worker: str = ""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the job computes in, its own last: masters and the optimizer are float32 in
        any."""
        return (
            PRECISIONS
            if self.job is None
            else tuple(dict.fromkeys(("float32", self.job.precision)))
        )


def fingerprint(probing: Probing) -> Fingerprint:
    """From the user's cache, or measured now and kept there. Raises DeviceError when the device
    does not open."""
    return cached(probing, Path.home() / ".cache" / "dougong" / "fingerprints")


def cached(probing: Probing, folder: Path) -> Fingerprint:
    """The same with a cache elsewhere. An unstable fingerprint is not kept: the next start measures
    again."""
    file = folder / f"{key_of(probing)}.json"
    with contextlib.suppress(OSError, ValueError):  # not there, not to be read, or damaged
        return Fingerprint.from_json(json.loads(file.read_text(encoding="utf-8")))
    found = measure(probing)
    if not found.unstable:
        with contextlib.suppress(OSError):  # a full or read-only home costs time, not the run
            _write(file, json.dumps(found.to_json()))
    return found


def measure(probing: Probing) -> Fingerprint:
    """Open the device and run the probes. What this process was told by its environment must be a
    worker's."""
    from dougong.fingerprint.take import take_fingerprint

    accelerator = get_accelerator(probing.accelerator)
    known = {
        f"{probing.accelerator} {name}": value
        for name, value in accelerator.describe().items()
        if value
    }
    device = accelerator.open(probing.index)
    variables = known | {
        f"${name}": value for name, value in arithmetic_variables(VARIABLES).items()
    }
    return take_fingerprint(device, probing.precisions, probing.shapes, variables)


def key_of(probing: Probing) -> str:
    """Digest of all that the answer depends on: host, device, versions, variables, what is asked.
    Loads no torch."""
    accelerator = get_accelerator(probing.accelerator)
    visible = accelerator.visible_devices_variable
    parts = {
        "host": platform.node(),
        "platform": platform.platform(),
        "device": [
            probing.accelerator,
            probing.index,
            read_visible_devices(visible) if visible else None,
        ],
        "found": accelerator.describe(),
        "versions": package_versions(),
        "variables": arithmetic_variables(VARIABLES),
        "question": question_of(probing.precisions, probing.shapes),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(file: Path, text: str) -> None:
    """A reader sees nothing or the whole file, also when two write at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{file.stem}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, file)
    except OSError:
        os.unlink(name)
        raise
