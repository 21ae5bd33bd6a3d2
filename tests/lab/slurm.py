"""Stand-ins for Slurm's commands on a lab's hosts: they write down what is asked, and this side does it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dougong.testing import Host, HostProcess, Lab

SRUN = '''#!/usr/bin/env python3
"""srun [--nodes=N --ntasks=N --nodelist=HOST] COMMAND...: one task on each host; the worst exit status."""
import json, os, pathlib, signal, sys, time

spool, words, hosts = pathlib.Path(os.environ["SPOOL"]), sys.argv[1:], None
while words[0].startswith("--"):
    option, _, value = words.pop(0).partition("=")
    hosts = [value] if option == "--nodelist" else hosts
asked = spool / f"{os.getpid()}-{time.monotonic_ns()}"
signal.signal(signal.SIGTERM, lambda *_: asked.with_suffix(".term").touch())
env = {key: value for key, value in os.environ.items() if key.startswith(("RAY_", "SLURM_", "PATH", "SPOOL"))}
part = asked.with_suffix(".part")
part.write_text(json.dumps({"hosts": hosts or os.environ["SLURM_JOB_NODELIST"].split(","), "words": words, "env": env}))
part.rename(asked.with_suffix(".asked"))
answer = asked.with_suffix(".done")
while not answer.exists():
    time.sleep(0.1)
done = json.loads(answer.read_text())
print(done["output"], end="", flush=True)
sys.exit(done["status"])
'''
SCONTROL = """#!/bin/sh
case "$1 $2" in
  "show hostnames") echo "$3" | tr , '\\n' ;;
  requeue*) echo "$2" >> "$SPOOL/requeued" ;;
  *) exit 1 ;;
esac
"""
SQUEUE = """#!/bin/sh
cat "$SPOOL/state"
"""


class Slurm:
    """A job of some hosts. `start` runs the batch script on the first of them, as often as it is queued."""

    def __init__(self, lab: Lab, hosts: list[Host], number: int = 4711) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._spool = lab.shared / "slurm"
        programs = self._spool / "bin"
        programs.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (self._spool / "state").write_text("RUNNING\n")
        names = ",".join(self._hosts)
        self._env = {
            "SPOOL": str(self._spool),
            "PATH": f"{programs}:{hosts[0].env['PATH']}",
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": names,
            "SLURM_NNODES": str(len(hosts)),
            "RAY_AUTH_TOKEN": None,
            "RAY_AUTH_MODE": None,
        }

    def start(self, script: Path, *arguments: str) -> HostProcess:
        first = next(iter(self._hosts.values()))
        return first.start(["bash", str(script), *arguments], self._env)

    def num_requeued(self) -> int:
        file = self._spool / "requeued"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Within, what srun asks for is done."""
        ended = threading.Event()
        thread = threading.Thread(target=self._serve, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _serve(self, ended: threading.Event) -> None:
        running: dict[Path, list[HostProcess]] = {}
        while not ended.is_set():
            for asked in self._spool.glob("*.asked"):
                if asked not in running:
                    running[asked] = self._begin(asked)
            done = [asked for asked, tasks in running.items() if all(task.status is not None for task in tasks)]
            for asked in done:
                _answer(asked, running.pop(asked))
            time.sleep(0.1)
        for tasks in running.values():
            for task in tasks:
                task.end()

    def _begin(self, asked: Path) -> list[HostProcess]:
        task = json.loads(asked.read_text())
        return [self._hosts[name].start(task["words"], task["env"]) for name in task["hosts"]]


def _answer(asked: Path, tasks: list[HostProcess]) -> None:
    status = max(task.status or 0 for task in tasks)
    part = asked.with_suffix(".answer")
    part.write_text(json.dumps({"status": status, "output": "".join(task.output for task in tasks)}))
    asked.unlink()
    part.rename(asked.with_suffix(".done"))
