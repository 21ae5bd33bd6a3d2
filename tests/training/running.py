"""Whole runs of `train` in real worker processes, with a hand-made control and a controller that only commits."""

from __future__ import annotations

import dataclasses
import queue
import time
import traceback
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.checkpoint.repository import Additions, commit, expected_tensors
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import StoreReply, WorkerMessage
from dougong.errors import DougongError
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.parallel.plan import Plan, Seat, make_plan
from dougong.planner.plan_job import elementwise_rule
from dougong.training.session import train
from tests.processes import CONTEXT
from tests.stores import asker_of

DEADLINE_S = 120.0
ROLES = {"A": "attention", "E": "experts", "B": "both"}


@dataclasses.dataclass
class Outcome:
    """What one generation left: metric rows by step, committed checkpoints by step, parts by (step, worker), phases
    that each worker went through (repeats left out), and the errors with which workers ended."""

    rows: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    committed: dict[int, Path] = dataclasses.field(default_factory=dict)
    parts: dict[tuple[int, str], dict[str, Any]] = dataclasses.field(default_factory=dict)
    phases: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def series(self) -> dict[int, tuple[Any, ...]]:
        """What must be the same bits on every layout."""
        return {s: tuple(r.get(k) for k in ("loss", "grad_norm", "lr", "val_loss")) for s, r in self.rows.items()}


def digests(checkpoint: Path) -> dict[Any, str]:
    """Digest of every tensor of the model and the optimizer."""
    return {entry.key: entry.digest for _, entry in Manifest.load(checkpoint).entries()}


def lay_out(job: Job, roles: str) -> Plan:
    """A plan with one worker per letter: A attention, E experts, B both."""
    seats = [Seat(f"east/{i}", "east", ROLES[r], "node", f"cpu:{i}") for i, r in enumerate(roles)]
    rule = elementwise_rule(job)
    return make_plan(job.batch.lanes, inspect_model(job.model, None), seats, is_elementwise=rule)


def token_file(folder: Path, num_tokens: int = 4096, highest: int = 255) -> Path:
    """Made-up ids 3 .. highest, uint16."""
    path = folder / "tokens.bin"
    np.random.default_rng(5).integers(3, highest + 1, num_tokens).astype("<u2").tofile(path)
    return path


def meet_nobody(*question: Any) -> StoreReply:
    """The store of a worker that is alone."""
    raise AssertionError("a worker that is alone asks for nobody")


class HandControl:
    """A worker's line to the test. `stop_at`: from this step on the worker says that it was asked to stop."""

    def __init__(
        self, name: str, messages: Any, stop_at: int | None, ask: Callable[..., StoreReply] = meet_nobody
    ) -> None:
        self._name, self._messages, self._stop_at = name, messages, stop_at
        self.ask = ask
        self._step = 0
        self.phases: list[str] = []

    def waits_for(self, ranks: Collection[int]) -> None:
        pass

    def progress(self, step: int, phase: str, operation: int) -> None:
        self._step = step
        if self.phases[-1:] != [phase]:
            self.phases.append(phase)

    def send(self, message: WorkerMessage) -> None:
        self._messages.put((self._name, message.kind, dataclasses.asdict(message)))

    def take_fault(self) -> None:
        """No drill."""

    @property
    def stop_requested(self) -> bool:
        return self._stop_at is not None and self._step >= self._stop_at

    @property
    def rest_requested(self) -> bool:
        return False

    @property
    def leave_requested(self) -> bool:
        return False

    def at_leaving(self, free: Callable[[], None], leave: Callable[[], int]) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Order:
    """What one generation is asked to do. `stop_at`: worker name -> step at which it is asked to stop.
    `train`: what its workers run."""

    job: Job
    roles: str
    run_dir: Path
    resume: Path | None = None
    generation: int = 1
    stop_at: dict[str, int] = dataclasses.field(default_factory=dict)
    train: Callable[[WorkerContext], None] = train


def run(order: Order) -> Outcome:
    """Run one generation to its end. A worker's `DougongError` is in `errors`; any other error is raised."""
    plan = lay_out(order.job, order.roles)
    root = order.run_dir / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    messages: Any = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_live, args=(order, plan, rank, store.port, messages), daemon=True)
        for rank in range(len(plan.workers))
    ]
    try:
        for process in processes:
            process.start()
        return _attend(order, plan, messages)
    finally:
        for process in processes:
            process.kill()
            process.join(10)


def _live(order: Order, plan: Plan, rank: int, port: int, messages: Any) -> None:
    torch.set_num_threads(1)
    worker = plan.workers[rank]
    control = HandControl(worker.name, messages, order.stop_at.get(worker.name), asker_of(port, order.generation))
    context = WorkerContext(
        job=order.job,
        plan=plan,
        worker=worker,
        generation=order.generation,
        run_dir=order.run_dir,
        resume=order.resume,
        address="127.0.0.1",
        drills=(),
        control=control,
    )
    try:
        order.train(context)
        messages.put((worker.name, "end", {"phases": control.phases, "error": None}))
    except DougongError as error:
        messages.put((worker.name, "end", {"phases": control.phases, "error": (type(error).__name__, str(error))}))
    except BaseException:
        messages.put((worker.name, "crash", {"text": traceback.format_exc()}))


def _attend(order: Order, plan: Plan, messages: Any) -> Outcome:
    """Gather what the workers say until all have ended; commit a step when all its parts are there."""
    outcome, deadline = Outcome(), time.monotonic() + DEADLINE_S
    while len(outcome.phases) < len(plan.workers):
        try:
            worker, kind, fields = messages.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"only {sorted(outcome.phases)} ended") from None
        if kind == "crash":
            raise AssertionError(f"{worker}:\n{fields['text']}")
        if kind == "step_done":
            outcome.rows[fields["row"]["step"]] = fields["row"]
        elif kind == "part_durable":
            outcome.parts[fields["step"], worker] = fields["part"]
            _commit_when_whole(order, plan, outcome, fields["step"])
        elif kind == "end":
            outcome.phases[worker] = fields["phases"]
            if fields["error"]:
                outcome.errors[worker] = fields["error"]
    return outcome


def _commit_when_whole(order: Order, plan: Plan, outcome: Outcome, step: int) -> None:
    parts = [CheckpointPart.from_json(part) for (s, _), part in outcome.parts.items() if s == step]
    if len(parts) == len(plan.workers):
        kinds = declaration_of(order.job.optimizer).kinds_like_parameters
        expected = expected_tensors(inspect_model(order.job.model, None), kinds)
        root = order.run_dir / "checkpoints"
        outcome.committed[step] = commit(root, step, order.generation, parts, Additions(expected=expected))
