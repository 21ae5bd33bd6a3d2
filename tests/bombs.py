"""Real training with a SIGKILL at a chosen moment: `python -m tests.bombs RUN_DIR JOB.yaml WORKER STEP PHASE`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dougong.job.load import load_job
from dougong.launcher.controller.config import EntryPoints
from dougong.launcher.run import Options, start_run


class Bomb:
    """A control that passes everything on, and kills its own process the first time that (step, phase) is reported."""

    def __init__(self, control: Any, fuse: Path, step: int, phase: str) -> None:
        self._control, self._fuse, self._moment = control, fuse, (step, phase)

    def waits_for(self, ranks: Any) -> None:
        self._control.waits_for(ranks)

    def progress(self, step: int, phase: str, operation: int) -> None:
        self._control.progress(step, phase, operation)
        if (step, phase) == self._moment and self._fuse.exists():
            self._fuse.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)


def train(context: Any) -> None:
    """The worker's entry."""
    from dougong.training import session

    fuse = context.run_dir.with_suffix(".fuse")
    wanted = json.loads(fuse.read_text()) if fuse.exists() else {}
    if wanted.get("worker") == context.worker.name:
        control = Bomb(context.control, fuse, wanted["step"], wanted["phase"])
        context = dataclasses.replace(context, control=control)
    session.train(context)


def main() -> int:
    run_dir, job, worker, step, phase = sys.argv[1:]
    path = Path(run_dir)
    path.with_suffix(".fuse").write_text(json.dumps({"worker": worker, "step": int(step), "phase": phase}))
    entries = dataclasses.replace(EntryPoints(), train="tests.bombs:train")
    return start_run(load_job(job, []), path, Options(ray=False, entries=entries))


if __name__ == "__main__":
    sys.exit(main())
