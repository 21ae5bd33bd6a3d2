"""A device's fingerprint, measured in a process of its own that has a worker's environment, never
the shell's.

`python -m dougong.tools.fingerprint_apart`: a request as JSON on standard input, the fingerprint as
JSON on standard output; an error of our family instead of it, with exit status `REFUSED`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.error_words import ErrorWords
from dougong.errors import DougongError, LaunchError
from dougong.fingerprint.cache import Probing, measure
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.models.library.loading import load_transformers

REFUSED = 65
"""Exit status of the process that says an error of our family on its standard output."""


@dataclass(frozen=True)
class ProbeRequest:
    """What the child process is asked for: a device, and the job (as JSON) whose shapes it also
    probes."""

    accelerator: str
    index: int
    job: str | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> ProbeRequest:
        return ProbeRequest(**json.loads(text))


def measure_apart(probing: Probing, threads: int) -> Fingerprint:
    """Measure in a child process with the environment of a worker of `threads` compute threads.

    Raises the error that ended the child: DeviceError where the device does not open; LaunchError
    for one that is not of our family.
    """
    accelerator = get_accelerator(probing.accelerator)
    ended = subprocess.run(
        [sys.executable, "-m", "dougong.tools.fingerprint_apart"],
        env=child_environment(accelerator.worker_environment(threads)),
        input=_request_of(probing).to_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == REFUSED:
        raise ErrorWords(**json.loads(ended.stdout)).error()
    if ended.returncode != 0:
        words = f"the probes' process ended with status {ended.returncode}"
        raise LaunchError(ended.stderr.strip() or words)
    return Fingerprint.from_json(json.loads(ended.stdout))


def _request_of(probing: Probing) -> ProbeRequest:
    job = probing.job.model_dump_json() if probing.job is not None else None
    return ProbeRequest(probing.accelerator, probing.index, job)


def _probing_of(request: ProbeRequest) -> Probing:
    """With the job's own shapes, if there is a job: the child may load torch, its parent need
    not."""
    if request.job is None:
        return Probing(request.accelerator, request.index)
    from dougong.training.start.preflight import inspect_only, shapes_of

    load_transformers()
    job = Job.model_validate_json(request.job)
    shapes = shapes_of(job, inspect_only(job))
    return Probing(request.accelerator, request.index, job, shapes)


def main() -> None:
    """Measure what standard input asks for."""
    try:
        found = measure(_probing_of(ProbeRequest.from_json(sys.stdin.read())))
    except DougongError as error:
        print(json.dumps(asdict(ErrorWords.of(error))))
        sys.exit(REFUSED)
    print(json.dumps(found.to_json()))


if __name__ == "__main__":
    main()
