"""The fingerprint of a worker's device, before any plan: measured, or found in the user's cache.

The cache is a folder of small files, `fingerprints/KEY.json` in the user's cache. The key holds
everything that an answer depends on, so a file is never wrong, only unused; one that is damaged
counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from dougong.accelerators.registry import get_accelerator
from dougong.control.cache_place import cache_place
from dougong.control.environment import arithmetic_variables, read_visible_devices
from dougong.deepspeed.adam_build import adam_version, load_adam
from dougong.fingerprint.record import PRECISIONS, Fingerprint, JobShapes, question_of
from dougong.job.schema import Job
from dougong.records.files import replace_file
from dougong.records.machine import package_versions


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
        if self.job is None:
            return PRECISIONS
        return tuple(dict.fromkeys(("float32", self.job.precision)))

    @property
    def takes_fused_forms(self) -> bool:
        """Whether experts may run by a fused form."""
        return self.job is None or self.job.operators == "auto"

    @property
    def updates_on_host(self) -> bool:
        """Whether the machine's processor updates the weights, too."""
        return self.job is not None and self.job.optimizer.is_on_host


def fingerprint(probing: Probing) -> Fingerprint:
    """From the job's cache, or measured now and kept there. Raises DeviceError when the device
    does not open."""
    place = cache_place(None if probing.job is None else probing.job.cache)
    if place is None:
        return measure(probing)
    return cached(probing, place / "fingerprints")


def cached(probing: Probing, folder: Path) -> Fingerprint:
    """The same with a cache elsewhere. A fingerprint that is unstable, or not whole, is not kept:
    the next start measures again."""
    file = folder / f"{key_of(probing)}.json"
    # Not there, not to be read, or damaged: measured anew.
    with contextlib.suppress(OSError, ValueError):
        return Fingerprint.from_json(json.loads(file.read_text(encoding="utf-8")))
    found = measure(probing)
    if not found.unstable and not found.unanswered:
        # A full or read-only home costs time, not the run.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(found.to_json()))
    return found


def measure(probing: Probing) -> Fingerprint:
    """Open the device and run the probes. This process must have a worker's environment."""
    from dougong.fingerprint.take import take_fingerprint

    accelerator = get_accelerator(probing.accelerator)
    explaining = {}
    for name, value in accelerator.describe().items():
        if value:
            explaining[f"{probing.accelerator} {name}"] = value
    device = accelerator.open(probing.index)
    for name, value in arithmetic_variables(accelerator.arithmetic_variables).items():
        explaining[f"${name}"] = value
    fused = accelerator.expert_operators() if probing.takes_fused_forms else ()
    host_adam = None
    if probing.job is not None and probing.updates_on_host:
        host_adam = load_adam(probing.job)
    return take_fingerprint(
        device, probing.precisions, probing.shapes, explaining, fused, host_adam
    )


def key_of(probing: Probing) -> str:
    """Digest of all that the answer depends on: host, device, versions, variables, what is asked.
    Loads no torch."""
    accelerator = get_accelerator(probing.accelerator)
    visible = accelerator.visible_devices_variable
    visible_devices = read_visible_devices(visible) if visible else None
    parts = {
        "host": platform.node(),
        "platform": platform.platform(),
        "device": [probing.accelerator, probing.index, visible_devices],
        "found": accelerator.describe(),
        "versions": package_versions(),
        "variables": arithmetic_variables(accelerator.arithmetic_variables),
        "question": question_of(probing.precisions, probing.shapes, probing.updates_on_host),
        "forms": () if probing.shapes is None else probing.shapes.attention,
        "fused": probing.takes_fused_forms,
    }
    if probing.job is not None and probing.updates_on_host:
        parts["update"] = adam_version(probing.job)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
