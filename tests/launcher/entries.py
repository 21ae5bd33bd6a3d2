"""What the launcher's tests have workers do instead of training: small loops without a model, and every kind of fault.

`model.config` of the job says how: `step_s` (seconds a step takes) and `faults`, each {worker, step, do, generation,
moment: begun or untold, when the step is done and nobody has told it};
`kernels`, {island: word}, lets islands compute differently; `memory`: workers keep the newest step in memory, and a
generation goes on from there; `meet`: the folder where workers meet, for runs whose own directory is ill.
Workers step together by files in the run directory; a checkpoint is one small file per worker, of the real format.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.checkpoint.directories import pending_directory
from dougong.checkpoint.disk import digest
from dougong.checkpoint.manifest import FileRecord
from dougong.checkpoint.part import CheckpointPart
from dougong.control.messages import EndAgent
from dougong.control.run_sources import RunSources
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import PartDurable, SaveFailed, StateFetched, StepDone
from dougong.errors import DataError, LaunchError, PeerError, RestError
from dougong.fingerprint.cache import Probing
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory
from dougong.training.results.kept_rows import KeptRows
from dougong.training.start.preflight import Inspection

PATIENCE_S = 60.0


def inspect(job: Job, known: RunSources | None = None) -> Inspection:
    """A model of nothing but 16 experts; `faults` at step 0 happen here."""
    for fault in job.model.config.get("faults", ()):
        if fault["step"] == 0:
            raise DataError(f"{job.data.text}: empty file; give one with text in it")
    return Inspection(Inventory("toy", (), (), 16, ()), {"name": job.data.text, "digest": "toy"})


def fingerprint(probing: Probing) -> Fingerprint:
    """Two probes; `kernels` says what an island gives for the first."""
    assert probing.job is not None
    island, config = probing.worker.partition("/")[0], probing.job.model.config
    bits = config.get("kernels", {}).get(island, "same")
    return Fingerprint({"adding": bits, "multiplying": "same"}, "toy", {"threads": f"{bits} threads"})


@dataclass
class Held:
    """What a toy worker keeps in memory: its newest step, and the rows of the last ones."""

    step: int
    rows: KeptRows = field(default_factory=KeptRows)


def train(context: WorkerContext) -> None:
    """Step until the end or a stop; checkpoint as the job says."""
    job, me, config = context.job, context.worker, context.job.model.config
    held = context.kept.get(Held) or Held(0)
    if config.get("memory"):
        context.kept.keep(held)
    context.control.at_leaving(lambda: None, lambda: held.step if config.get("memory") else 0)
    step = _start_step(context, held)
    if step > _load(context) and _is_due(job, step):
        _save(context, step)  # its checkpoint has died with the generation that had begun it
    print(f"{me.name} begins after step {step}, generation {context.generation}")
    end = "go"
    # As a trainer does, where the storage is what is tested: beside the steps.
    saver = ThreadPoolExecutor(1) if config.get("meet") else None
    while step < job.steps and end == "go":
        step += 1
        context.control.progress(step, "forward", 0)
        _rehearse(context, step)
        _suffer(context, step)
        time.sleep(config.get("step_s", 0.01))
        end = _agree(context, step)
        held.step = step
        row = {"step": step, "loss": 1.0 / step, "tokens": 64, "step_s": 0.01, "tokens_per_s": 6400.0}
        row |= {"grad_norm": 1.0, "lr": 1e-3, "islands": {}}
        held.rows.keep(context.generation, row)
        _suffer(context, step, "untold")
        if me.rank == 0:
            context.control.send(StepDone(step, row))
        if end == "stop" or _is_due(job, step):
            context.control.progress(step, "checkpoint", 1)
            if saver is None:
                _save(context, step)
            else:
                saver.submit(_save, context, step)
    if saver is not None:
        saver.shutdown()
    if end == "rest" and step < job.steps:
        raise RestError(f"generation {context.generation} ends after step {step}")


def _is_due(job: Job, step: int) -> bool:
    every = job.checkpoint.every
    return step == job.steps or bool(every and step % every == 0)


def _start_step(context: WorkerContext, held: Held) -> int:
    """The last step that is done: the one that all hold who hold any, else the checkpoint's."""
    checkpoint = _load(context)
    folder = _meeting_place(context)
    folder.mkdir(exist_ok=True)
    names = [folder / f"{context.generation}-holds-{worker.rank}" for worker in context.plan.workers]
    own = names[context.worker.rank]
    part = own.with_suffix(".part")
    part.write_text(str(held.step))
    part.rename(own)
    _await(context, lambda: all(name.exists() for name in names), "what all hold")
    steps = [int(name.read_text()) for name in names]
    newest = min((step for step in steps if step > 0), default=0)
    tier = "checkpoint" if newest == 0 else "own" if held.step else "peer"
    held.step = newest or checkpoint
    untold = held.rows.begin(context.recorded, held.step)
    context.control.send(StateFetched(held.step, {tier: 8}, 0.001, untold))
    return held.step


def _meeting_place(context: WorkerContext) -> Path:
    return Path(context.job.model.config.get("meet") or context.run_dir / "toy")


def _await(context: WorkerContext, condition: Callable[[], bool], what: str) -> None:
    """As a wait for peers: it ends by a PeerError when the generation is to be left."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if context.control.leave_requested:
            raise PeerError(f"generation {context.generation} is over")
        if time.monotonic() > deadline:
            raise LaunchError(f"not there: {what}")
        time.sleep(0.002)


def _rehearse(context: WorkerContext, step: int) -> None:
    from dougong.fault.drill import rehearse

    rehearse(context.drills, step, context.control)


def _agree(context: WorkerContext, step: int) -> str:
    """Whether to stop or to rest after this step: rank 0 decides when all have come, the others read it."""
    folder = _meeting_place(context)
    verdict = folder / f"{context.generation}-{step}"
    others = [worker.rank for worker in context.plan.workers if worker.rank > 0]
    arrived = [folder / f"{context.generation}-{step}-{rank}" for rank in others]
    if context.worker.rank > 0:
        arrived[context.worker.rank - 1].touch()
    else:
        _await(context, lambda: all(file.exists() for file in arrived), f"all of step {step}")
        part = verdict.with_suffix(".part")
        asked = "rest" if context.control.rest_requested else "go"
        part.write_text("stop" if context.control.stop_requested else asked)
        part.rename(verdict)
    _await(context, verdict.exists, f"a verdict on step {step}")
    return verdict.read_text()


def _save(context: WorkerContext, step: int) -> None:
    """As a saver: storage that refuses is told."""
    try:
        part = _write(context, step)
    except OSError as error:
        context.control.send(SaveFailed(step, str(error)))
        return
    context.control.send(PartDurable(step, part.directory, part.to_json()))


def _write(context: WorkerContext, step: int) -> CheckpointPart:
    directory = pending_directory(context.run_dir / "checkpoints", step, context.generation, context.fence)
    name = f"model/toy-{context.worker.rank}.json"
    file = directory / name
    if not context.fence:
        directory.parent.mkdir(exist_ok=True)
    directory.mkdir(exist_ok=True)
    file.parent.mkdir(exist_ok=True)
    data = json.dumps({"step": step, "worker": context.worker.name, "of": len(context.plan.workers)}).encode()
    with file.open("wb") as stream:
        stream.write(data)
        os.fsync(stream.fileno())
    return CheckpointPart(
        worker=context.worker.name,
        rank=context.worker.rank,
        generation=context.generation,
        step=step,
        directory=directory.name,
        files={name: FileRecord(len(data), digest(data))},
        state=(),
    )


def _load(context: WorkerContext) -> int:
    if context.resume is None:
        return 0
    return int(json.loads((context.resume / "model" / "toy-0.json").read_text())["step"])


def _suffer(context: WorkerContext, step: int, moment: str = "begun") -> None:
    for fault in context.job.model.config.get("faults", ()):
        here = (context.worker.name, step, moment) == (fault["worker"], fault["step"], fault.get("moment", "begun"))
        if here and context.generation <= fault.get("generation", 1):
            _FAULTS[fault["do"]](context)


def _raise(context: WorkerContext) -> None:
    raise ValueError(f"the seventh seal is broken on {context.worker.name}")


def _echo(context: WorkerContext) -> None:
    raise PeerError("worker 0 lost a message: [gloo/transport/tcp/pair.cc:534] Connection closed by peer")


def _data(context: WorkerContext) -> None:
    raise DataError("corpus.txt: byte 17: not UTF-8; convert it")


def _memory(context: WorkerContext) -> None:
    raise MemoryError("can't allocate memory: you tried to allocate 8 GiB")


def _kill(context: WorkerContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault(context: WorkerContext) -> None:
    ctypes.string_at(0)


def _leave(context: WorkerContext) -> None:
    os._exit(0)


def _exit(context: WorkerContext) -> None:
    sys.exit(3)


def _hang(context: WorkerContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)


def _stop(context: WorkerContext) -> None:
    """As a SIGSTOP from outside, for good."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _hold(context: WorkerContext) -> None:
    """Sleep without letting go of the interpreter."""
    ctypes.PyDLL(None).sleep(1000)


def _stop_agent(context: WorkerContext) -> None:
    """Kill the agent, which is this process's parent."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def _kill_zygote(context: WorkerContext) -> None:
    """Kill what has forked this process, another child of its agent; go on with the work."""
    agent = os.getppid()
    children = map(int, Path(f"/proc/{agent}/task/{agent}/children").read_text().split())
    os.kill(next(pid for pid in children if os.getsid(pid) == pid), signal.SIGKILL)  # no worker leads a session


def _spam(context: WorkerContext) -> None:
    warnings.warn("the same from everybody", UserWarning, stacklevel=1)
    print("x" * 100_000)
    for i in range(5000):
        print(f"line {i}")


def _garble(context: WorkerContext) -> None:
    """Write into the agent's socket as a stray `write` would, then send what only a controller may."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"no message at all\n")
    context.control.send(EndAgent())  # type: ignore[arg-type]


_FAULTS: dict[str, Callable[[Any], None]] = {
    "raise": _raise,
    "echo": _echo,
    "data": _data,
    "memory": _memory,
    "kill": _kill,
    "segfault": _segfault,
    "leave": _leave,
    "exit": _exit,
    "hang": _hang,
    "stop": _stop,
    "hold": _hold,
    "kill_agent": _stop_agent,
    "kill_zygote": _kill_zygote,
    "spam": _spam,
    "garble": _garble,
}
