"""What a run shows to others on its machine and its network: who listens, who may knock, what is read from a terminal.

`docs/security.md` promises what is held here.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.flood import end, flood
from tests.launcher.test_run import dougong
from tests.launcher.toyrun import ToyRun, toy_job


def test_thousands_of_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    """Neither the look whether the run is alive, nor `stop`; the record says it in a few lines."""
    run = ToyRun(tmp_path / "run", toy_job(steps=50_000, step_s=0.05)).start()
    run.await_step(2)
    known = run.run_dir.read_controller()
    assert known is not None
    with flood((known.host, known.port), 2000) as strangers:
        assert json.loads(dougong("status", "--json", str(run.path)).stdout)["state"] == "RUNNING"
        assert dougong("resume", str(run.path)).returncode == 3
        stopped = dougong("stop", str(run.path))
        assert end(strangers) > 2000
    assert stopped.returncode == 0 and stopped.stdout.startswith("stopped at step"), stopped.stderr
    assert run.finish() == 130, run.text()
    assert not run.events("failure_diagnosed") and len(run.events("generation_started")) == 1
    told = [event["text"] for event in run.events("warning")]
    assert told[0] == "127.0.0.1: too many unproven connections at once"
    assert len(told) < 8
