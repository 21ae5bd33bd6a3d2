"""A device's fingerprint, measured in a process of its own that has a worker's environment, never
the shell's.

`python -m dougong.tools.fingerprint_apart`: a request as JSON on standard input, the fingerprint as
JSON on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.errors import DougongError, LaunchError
from dougong.fingerprint.cache import Probing, measure
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.training.preflight import inspect_only, shapes_of


def measure_apart(probing: Probing, threads: int) -> Fingerprint:
    """Measure in a child process with a worker's environment, never in the shell's. Raises what the
    child raised."""
    job = probing.job.model_dump_json() if probing.job is not None else None
    raw = {"accelerator": probing.accelerator, "index": probing.index, "job": job}
    environment = child_environment(
        get_accelerator(probing.accelerator).worker_environment(threads)
    )
    command = [sys.executable, "-m", "dougong.tools.fingerprint_apart"]
    ended = subprocess.run(
        command, env=environment, input=json.dumps(raw), capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise LaunchError(
            ended.stderr.strip() or f"the probes' process ended with status {ended.returncode}"
        )
    return Fingerprint.from_json(json.loads(ended.stdout))


def _probing_from_json(raw: dict[str, Any]) -> Probing:
    """With the job's own shapes, if there is a job: the child may load torch, its parent need
    not."""
    job = Job.model_validate_json(raw["job"]) if raw["job"] is not None else None
    shapes = shapes_of(job, inspect_only(job)) if job is not None else None
    return Probing(raw["accelerator"], raw["index"], job, shapes)


def main() -> None:
    """Measure what standard input asks for."""
    try:
        found = measure(_probing_from_json(json.load(sys.stdin)))
    except DougongError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(found.to_json()))


if __name__ == "__main__":
    main()
