"""A run as a controller would have recorded it, for tests of what is shown: no process, no model, exact values."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, make_plan
from dougong.records.directory import RunDir
from dougong.records.events import Event, from_json
from dougong.records.status import RunStatus, WorkerState
from dougong.ui.run_progress import RunProgress

START = datetime(2025, 11, 22, 9, 30, 0, tzinfo=timezone.utc)
MACHINE = {
    "host": "forge", "platform": "Linux-6.8-x86_64", "python": "3.11.9", "cpu": "Example CPU @ 2.60GHz", "cores": 2,
    "memory_bytes": 16 * 2**30, "versions": {"dougong": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
}  # fmt: skip
JOB = """job: quickstart
model:
  family: qwen3_moe
  config: {hidden_size: 128, num_experts: 16, num_experts_per_tok: 4}
data: {text: stdlib, tokenizer: bytes, sequence_length: 256}
batch: {lanes: 4, microbatches: 2, microbatch_size: 2}
steps: 60
islands:
  - {name: east, accelerator: cpu, workers: 2, role: both}
drill: [{at_step: 30, kill: east/1}]
"""


@dataclass
class Recorder:
    """Writes a run directory on a clock of its own."""

    path: Path
    steps: int = 60
    islands: dict[str, int] = field(default_factory=lambda: {"east": 2})
    seconds: float = 100.0

    def __post_init__(self) -> None:
        RunDir.create(self.path)
        self.run = RunDir(self.path, lambda: self.seconds, lambda: START + timedelta(seconds=self.seconds))
        self.run.write_job(JOB)
        self.noise = itertools.cycle([0.031, -0.022, 0.044, -0.05, 0.008, -0.013, 0.026, -0.035, 0.001])

    def event(self, kind: str, generation: int, after_s: float = 0.05, **fields: Any) -> Event:
        """An event `after_s` after what came before."""
        self.seconds += after_s
        return self.run.append_event(from_json({"kind": kind, "generation": generation, **fields}))

    def start(self, command: str = "dougong run examples/quickstart.yaml") -> Plan:
        """Everything up to the first generation."""
        plan = make_layout(self.islands)
        agents = [
            {"node": "forge", "island": name, "address": "127.0.0.1", "accelerator": "cpu", "devices": 2,
             "versions": MACHINE["versions"]} for name in self.islands
        ]  # fmt: skip
        self.event("created", 1, job="quickstart", command=command.split(), machine=MACHINE)
        self.event("agents_started", 1, 2.1, agents=agents)
        self.event("inspected", 1, 1.4, family="qwen3_moe", parameters=3_311_872, experts=16)
        self.run.write_plan(plan.to_json())
        self.event("planned", 1, workers=len(plan.workers), lanes=plan.num_lanes, experts=plan.num_experts)
        self.status("RUNNING", 1, 0)
        return plan

    def generation(self, number: int, resume: str | None = None, step: int = 0) -> None:
        """Workers of a generation start."""
        names = [f"{island}/{i}" for island, workers in self.islands.items() for i in range(workers)]
        self.event("generation_started", number, 0.03, workers=names, resume=resume, step=step)

    def train(self, attempt: int, first: int, last: int, checkpoint_every: int = 20) -> list[dict[str, Any]]:
        """Rows for steps first..last, a checkpoint now and then."""
        rows = []
        for step in range(first, last + 1):
            self.seconds += 0.5
            if step == first:
                self.event("first_step", attempt, 0.3, step=step)
            rows.append(self.row(attempt, step))
            self.run.append_metrics(rows[-1])
            self.status("RUNNING", attempt, step)
            if step % checkpoint_every == 0:
                self.event("checkpoint_started", attempt, 0.01, step=step)
                self.event("checkpoint_committed", attempt, 0.2, step=step, directory=f"step-{step:06d}",
                           bytes=39_000_000 + step, seconds=0.21)  # fmt: skip
                (self.run.checkpoints / f"step-{step:06d}").mkdir(exist_ok=True)
                for old in sorted(self.run.checkpoints.iterdir())[:-2]:
                    old.rmdir()
        return rows

    def row(self, attempt: int, step: int) -> dict[str, Any]:
        """A believable row, with some noise."""
        return make_row(attempt, step, next(self.noise), self.steps, tuple(self.islands))

    def kill(self, generation: int, worker: str, step: int) -> None:
        """A worker dies as `step` begins; the controller notices and decides."""
        self.event("drill", generation, 0.02, worker=worker, step=step, action="kill")
        cause = "killed by signal 9 (SIGKILL), as rehearsed"
        self.event("worker_died", generation, 0.004, worker=worker, cause=cause, **{"class": "crash"})
        told = {"worker": worker, "class": "crash", "cause": cause, "detail": "last words of " + worker}
        self.event("diagnosis", generation, 0.001, **told)
        self.event("decision", generation, 0.001, action="new_generation", reason="1 of 3 restarts")
        self.status("RECOVERING", generation, step - 1)

    def status(self, state: str, generation: int, step: int) -> None:
        """status.json as `dougong status` reads it."""
        plan = make_layout(self.islands)
        workers = tuple(
            WorkerState(
                name=worker.name,
                host="forge",
                pid=4000 + 10 * generation + worker.rank,
                device=worker.device,
                role=worker.role,
                lanes=worker.lanes,
                experts=worker.experts,
            )
            for worker in plan.workers
        )
        self.run.write_status(
            RunStatus(state=state, generation=generation, step=step, steps=self.steps, workers=workers)
        )


def make_row(
    attempt: int, step: int, wobble: float = 0.0, steps: int = 60, islands: tuple[str, ...] = ("east", "west")
) -> dict[str, Any]:
    """A believable row: falling loss, warm-up and cosine, a slower first step."""
    step_s = 0.5 + abs(wobble) + (0.4 if step in (1, 21) else 0.0)
    cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * max(step - 10, 0) / max(steps - 10, 1)))
    row: dict[str, Any] = {
        "generation": attempt,
        "step": step,
        "loss": 2.05 + 3.5 * math.exp(-step / 14) + wobble,
        "tokens": 4096,
        "step_s": step_s,
        "tokens_per_s": 4096 / step_s,
        "grad_norm": 0.6 + 2.6 * math.exp(-step / 8) + abs(wobble),
        "lr": 3e-3 * min(step / 10, cosine),
        "islands": {name: {"compute_s": step_s * 0.8, "exchange_s": step_s * 0.15} for name in islands},
    }
    if step % 20 == 0:
        row["val_loss"] = 2.15 + 3.5 * math.exp(-step / 14)
    return row


def make_layout(islands: dict[str, int]) -> Plan:
    """Seats on one machine, 4 lanes, 16 experts."""
    seats = [Seat(f"{n}/{i}", n, "both", "forge", f"cpu:{i}") for n, workers in islands.items() for i in range(workers)]
    inventory = Inventory("qwen3_moe", (TensorSpec("model.embed_tokens.weight", (256, 128), True),),
                          ("model.layers.0.mlp.experts",), 16, (("gate_up_proj", (256, 128)),))  # fmt: skip
    return make_plan(4, inventory, seats)


def progress_at(step: int) -> RunProgress:
    """A run of 60 steps that has come so far, two seconds a step."""
    progress = RunProgress("tiny", 60, 0.0, state="running")
    for done in range(1, step + 1):
        progress.take(make_row(1, done), 2.0 * done)
    return progress


def finished_run(path: Path) -> RunDir:
    """The quickstart: 60 steps, east/1 killed as step 30 begins, resumed from step 20, finished."""
    recorder = Recorder(path)
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    recorder.event("warning", 1, text="grad norm 3.2 above clip_norm 1.0 for 5 steps", workers=["east/0", "east/1"])
    recorder.kill(1, "east/1", 30)
    recorder.generation(2, "step-000020", 20)
    recorder.train(2, 21, 60)
    recorder.status("FINISHED", 2, 60)
    recorder.event("finished", 2, 0.4, step=60)
    return recorder.run


def failed_run(path: Path) -> RunDir:
    """Two failures, no restart left."""
    recorder = Recorder(path, islands={"east": 1, "west": 2})
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 24)
    recorder.kill(1, "west/1", 25)
    recorder.event("checkpoint_rejected", 1, directory="step-000020", reason="optimizer/rank00001: digest differs")
    recorder.generation(2)
    recorder.train(2, 1, 9)
    cause = 'RuntimeError: <script>alert("x")</script> & loss is nan at step 10'
    recorder.event("worker_died", 2, worker="east/0", cause=cause, **{"class": "exception"})
    recorder.status("FAILED", 2, 9)
    recorder.event("failed", 2, 0.1, step=9, worker="east/0", cause=cause)
    log = recorder.run.log_file(2, "east/0")
    log.parent.mkdir(parents=True)
    log.write_text('step 9\nTraceback (most recent call last):\n  File "train.py", line 3\n' + cause + "\n")
    return recorder.run


def running_run(path: Path) -> RunDir:
    """In the middle of the second generation."""
    recorder = Recorder(path)
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    recorder.kill(1, "east/1", 30)
    recorder.generation(2, "step-000020", 20)
    recorder.train(2, 21, 25)
    return recorder.run
