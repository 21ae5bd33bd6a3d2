"""A cluster is examined by a process of its own, a driver of Ray: Ray ends its drivers when its
head is gone, and has waits of its own. The command hears what it is at, and keeps its deadline.

`python -m dougong.doctor.apart FD PARENT`: the request as JSON on standard input, lines of JSON to
the file descriptor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from dataclasses import dataclass
from typing import IO

from pydantic import BaseModel

from dougong.control.bounded import answer_within
from dougong.control.environment import child_environment
from dougong.control.processes import die_with_parent, end_words
from dougong.deadlines import DEADLINES
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.ask.observe import Tell
from dougong.doctor.examine import examine_cluster, report_of_none
from dougong.doctor.record import DoctorReport
from dougong.errors import DougongError
from dougong.job.schema import Job
from dougong.launcher.backends.ray_choice import RayChoice

_MODULE = "dougong.doctor.apart"


class ClusterRequest(BaseModel):
    """What the process is asked for; `job` as JSON."""

    job: str | None
    quick: bool
    run_dir: str
    address: str
    origin: str
    room_bytes: int

    @staticmethod
    def of(request: DoctorRequest, choice: RayChoice) -> ClusterRequest:
        job = None if request.job is None else request.job.model_dump_json()
        return ClusterRequest(
            job=job,
            quick=request.quick,
            run_dir=request.run_dir,
            address=choice.address or "",
            origin=choice.origin,
            room_bytes=request.room_bytes,
        )

    @property
    def request(self) -> DoctorRequest:
        job = None if self.job is None else Job.model_validate_json(self.job)
        return DoctorRequest(job, self.quick, self.run_dir, self.room_bytes)

    @property
    def choice(self) -> RayChoice:
        return RayChoice(self.address, self.origin)


class DoctorLine(BaseModel):
    """What comes back: what is being done, and at last the report."""

    doing: str = ""
    report: DoctorReport | None = None


@dataclass(frozen=True)
class _Examining:
    """The process and its ends. `said`: what it writes; `errors`: what its libraries print."""

    process: subprocess.Popen[str]
    said: IO[str]
    errors: IO[bytes]

    def hear(self, tell: Tell) -> DoctorReport | None:
        """Until it has ended; its report, None where it has made none."""
        report = None
        for text in self.said:
            line = DoctorLine.model_validate_json(text)
            if line.report is not None:
                report = line.report
            else:
                tell(line.doing)
        return report

    def last_words(self) -> str:
        """What it printed last, or how it ended."""
        code = self.process.wait(DEADLINES.kill_s)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        how = f"the process that asks the nodes {end_words(code)}"
        return f"{how}: {lines[-1].strip()}" if lines else how


def examine_apart(
    request: DoctorRequest, choice: RayChoice, tell: Tell, limit_s: float = DEADLINES.doctor_s
) -> DoctorReport:
    """As `examine_cluster`, within `limit_s`: what has not ended by then is what was found."""
    begun = time.monotonic()
    where = choice.address or ""
    with tempfile.TemporaryFile() as errors:
        examining = _begin(ClusterRequest.of(request, choice), errors)
        try:
            report = answer_within(limit_s, lambda: examining.hear(tell))
            words = "" if report is not None else examining.last_words()
        except futures.TimeoutError:
            report, words = None, f"the examination has not ended within {limit_s:g} s"
        finally:
            examining.process.kill()
            examining.process.wait(DEADLINES.kill_s)
            examining.said.close()
    return report or report_of_none(request, where, words, begun)


def _begin(request: ClusterRequest, errors: IO[bytes]) -> _Examining:
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, str(theirs), str(os.getpid())],
        env=child_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[theirs],
        text=True,
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(request.model_dump_json())
    process.stdin.close()
    return _Examining(process, os.fdopen(ours, encoding="utf-8"), errors)


def main(arguments: list[str]) -> None:
    """Examine what standard input asks for."""
    out, parent = arguments
    die_with_parent(int(parent))
    request = ClusterRequest.model_validate_json(sys.stdin.read())
    with os.fdopen(int(out), "w", encoding="utf-8", buffering=1) as lines:

        def tell(doing: str) -> None:
            lines.write(f"{DoctorLine(doing=doing).model_dump_json()}\n")

        begun = time.monotonic()
        try:
            report = examine_cluster(request.request, request.choice, tell)
        except DougongError as error:
            report = report_of_none(request.request, request.address, str(error), begun)
        lines.write(f"{DoctorLine(report=report).model_dump_json()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
