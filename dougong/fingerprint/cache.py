"""A worker's task before any plan: the fingerprint of its device, measured or found in the user's cache.

The cache is a folder of small files, `~/.cache/dougong/fingerprints/KEY.json`. The key holds everything that an answer
depends on, so a file is never wrong, only unused; one that is damaged counts as none.

`python -m dougong.fingerprint.cache` measures in a process of its own: a request as JSON on standard input, the
fingerprint as JSON on standard output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import arithmetic_variables, child_environment, read_visible_devices
from dougong.errors import DougongError, LaunchError
from dougong.fingerprint.record import PRECISIONS, Fingerprint, Shapes, question_of, take_fingerprint
from dougong.job.schema import Job
from dougong.records.machine import package_versions


@dataclass(frozen=True)
class Probing:
    """Whose arithmetic to look at: a device by its accelerator and number, and the job that it is for.

    `job` None: the general probes in every precision. `shapes` None: no probes of the job's own sizes.
    """

    accelerator: str
    index: int = 0
    job: Job | None = None
    shapes: Shapes | None = None
    worker: str = ""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the job computes in, its own last: masters and the optimizer are float32 in any."""
        return PRECISIONS if self.job is None else tuple(dict.fromkeys(("float32", self.job.precision)))


def fingerprint(probing: Probing) -> Fingerprint:
    """From the user's cache, or measured now and kept there. Raises DeviceError when the device does not open."""
    return cached(probing, Path.home() / ".cache" / "dougong" / "fingerprints")


def cached(probing: Probing, folder: Path) -> Fingerprint:
    """The same with a cache elsewhere. An unstable fingerprint is not kept: the next start measures again."""
    file = folder / f"{key_of(probing)}.json"
    with contextlib.suppress(OSError, ValueError):  # not there, not to be read, or damaged
        return Fingerprint.from_json(json.loads(file.read_text(encoding="utf-8")))
    found = measure(probing)
    if not found.unstable:
        with contextlib.suppress(OSError):  # a full or read-only home costs time, not the run
            _write(file, json.dumps(found.to_json()))
    return found


def measure(probing: Probing) -> Fingerprint:
    """Open the device and run the probes. What this process was told by its environment must be a worker's."""
    accelerator = get_accelerator(probing.accelerator)
    known = {f"{probing.accelerator} {name}": value for name, value in accelerator.describe().items() if value}
    device = accelerator.open(probing.index)
    variables = known | {f"${name}": value for name, value in arithmetic_variables().items()}
    return take_fingerprint(device, probing.precisions, probing.shapes, variables)


def key_of(probing: Probing) -> str:
    """Digest of all that the answer depends on: host, device, versions, variables, what is asked. Loads no torch."""
    accelerator = get_accelerator(probing.accelerator)
    visible = accelerator.visible_devices_variable
    parts = {
        "host": platform.node(),
        "platform": platform.platform(),
        "device": [probing.accelerator, probing.index, read_visible_devices(visible) if visible else None],
        "found": accelerator.describe(),
        "versions": package_versions(),
        "variables": arithmetic_variables(),
        "question": question_of(probing.precisions, probing.shapes),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def measure_apart(probing: Probing, threads: int) -> Fingerprint:
    """Measure in a child process with a worker's environment, never in the shell's. Raises what the child raised."""
    job = probing.job.model_dump_json() if probing.job is not None else None
    raw = {"accelerator": probing.accelerator, "index": probing.index, "job": job}
    environment = child_environment(get_accelerator(probing.accelerator).worker_environment(threads))
    command = [sys.executable, "-m", "dougong.fingerprint.cache"]
    ended = subprocess.run(command, env=environment, input=json.dumps(raw), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise LaunchError(ended.stderr.strip() or f"the probes' process ended with status {ended.returncode}")
    return Fingerprint.from_json(json.loads(ended.stdout))


def _probing_from_json(raw: dict[str, Any]) -> Probing:
    """With the job's own shapes, if there is a job: the child may load torch, its parent need not."""
    from dougong.training.preflight import inspect_only, shapes_of

    job = Job.model_validate_json(raw["job"]) if raw["job"] is not None else None
    shapes = shapes_of(job, inspect_only(job)) if job is not None else None
    return Probing(raw["accelerator"], raw["index"], job, shapes)


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


def main() -> None:
    """Measure what standard input asks for."""
    try:
        found = measure(_probing_from_json(json.load(sys.stdin)))
    except DougongError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(found.to_json()))


if __name__ == "__main__":
    main()
