"""What the controller's own work costs, by the number of nodes: a start, then heartbeats and looks at everybody.

    python benchmarks/control_plane.py [--nodes 1 8 128 1250] [--seconds N] [--rounds N]

The controller, its facts, decisions and records are the product's; agents are fakes in this process that answer at
once what a run asks on its way to training, eight workers each. Then every agent's heartbeat comes as often as agents
of so large a run send it, as the reader of its line hands it on, with progress and signs of life of its workers, each
of whom waits for all others: the most that there is to say. Told is the processor time of the controller's thread,
decoding and looks included, as a part of one core. Where it cannot follow, it is told what it would need for all beats.
The readers of the lines (a thread each, which cut the stream into frames) are not in it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from dougong.control.handshake import AgentFacts
from dougong.control.messages import (
    AgentReady,
    ForkWorkers,
    FromWorker,
    Heartbeat,
    Message,
    WorkerForked,
    encode,
)
from dougong.control.network.path_probe import PathListener
from dougong.control.path_messages import Hearing, PathEnd, PathResult, PathsOpen, PathsTried, TryPaths
from dougong.control.progress import WorkerProgress, WorkerSigns
from dougong.control.worker_messages import ModelFound, StateFetched, StepDone
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.agent.facts import software_here
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.controller.config import ControllerConfig, EntryPoints
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import AgentBeat, AgentJoined, AgentMessage, SignalReceived
from dougong.parallel.plan import Inventory
from dougong.planner.agreement import Software
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view
from tests.launcher.toyrun import toy_job, wait_for

WORKERS = 8
"""Of one node."""
STARTED_S = 600.0
VARIANTS = 7
"""Different beats of one agent, which come again and again."""
PATIENT = replace(DEADLINES, paths_s=STARTED_S)
"""All fakes are tried from one process."""
INVENTORY = Inventory("toy", (), (), 1 << 14, ())


@dataclass(eq=False)
class Fake:
    """An agent, as the controller's channel to it: what it is sent it answers at once."""

    name: str
    inbox: Inbox
    workers: tuple[str, ...]
    begun: dict[int, float]
    software: Software
    path: tuple[str, int]
    peer_address: str = "127.0.0.1"
    peer: str = "a fake"

    @property
    def heard_at(self) -> float:
        """It is always heard."""
        return time.monotonic()

    def send(self, message: Message) -> None:
        match message:
            case TryPaths(number, ends):
                results = tuple(PathResult(end.name, 1, "passes") for end in ends)
                self.say(PathsTried(number, results))
            case ForkWorkers(0, (worker, *_)):
                found = ModelFound(INVENTORY, {"name": "toy", "digest": "d"})
                self.say(FromWorker(0, worker, "inspect", found))
            case ForkWorkers(generation, workers):
                self.begun[generation] = time.monotonic()
                for worker in workers:
                    self.say(WorkerForked(generation, worker, 7))

    def join(self) -> None:
        same = self.software
        facts = AgentFacts(self.name, "east", self.name, 1, "cpu", None, dict(same.versions), {}, code=dict(same.code))
        self.inbox.put(AgentJoined(facts, self))
        self.say(PathsOpen(PathEnd(self.name, self.name, *self.path, "lo", 65536, (1, 2))))
        self.say(AgentReady(1))

    def say(self, message: Message) -> None:
        self.inbox.put(AgentMessage(self.name, self, message))

    def close(self) -> None:
        pass


class Fakes:
    """A backend that starts fakes, one a node."""

    phase: Phase = "agents"
    shared_devices = True
    may_grow = False

    def __init__(self, num_nodes: int, inbox: Inbox, software: Software) -> None:
        self._inbox, self._software = inbox, software
        self._paths = PathListener("127.0.0.1", "secret", None, DEADLINES)
        self._nodes = [Node(f"n{i:05d}", f"n{i:05d}", "127.0.0.1", cpus=WORKERS) for i in range(num_nodes)]
        self.agents: list[Fake] = []
        self.begun: dict[int, float] = {}

    def open(self) -> str:
        return "127.0.0.1"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        return self._nodes

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        common = self._software, self._paths.address
        for spec in specs:
            agent = Fake(spec.name, self._inbox, spec.workers, self.begun, *common)
            self.agents.append(agent)
            agent.join()

    def end(self, names: Sequence[str]) -> None:
        pass

    def how_ended(self, name: str) -> str:
        return ""

    def ended(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def beats_of(agent: Fake, num_workers: int) -> list[Heartbeat]:
    """Its workers wait for everybody else of the run, and each beat finds them a bit further."""
    everybody = (1 << num_workers) - 1
    hearing = Hearing(tuple(f"agent{i:05d}" for i in range(16)))
    beats = []
    for number in range(1, VARIANTS + 1):
        progress, signs = {}, {}
        for worker in agent.workers:
            awaited = everybody & ~(1 << int(worker.rpartition("/")[2]))
            progress[worker] = WorkerProgress(number, 9, "exchange", number, number, awaited)
            signs[worker] = WorkerSigns("S", 0.1, 0.05 * number, 0.0)
        beats.append(Heartbeat(1, number, progress, signs, hearing))
    return beats


class Run:
    """One run of fakes, in threads of this process, until it is stopped."""

    def __init__(self, num_nodes: int, folder: Path) -> None:
        self.num_workers = num_nodes * WORKERS
        self.inbox = Inbox()
        islands = [{"name": "east", "accelerator": "cpu", "workers": self.num_workers}]
        job = Job.model_validate(toy_job(islands=islands, batch={"lanes": self.num_workers}))
        self.backend = Fakes(num_nodes, self.inbox, software_here(job, None))
        view = make_view(Console(file=io.StringIO(), width=200), "toy", 20)
        config = ControllerConfig(job, "secret", "/", entries=EntryPoints(fingerprint=None), deadlines=PATIENT)
        self.run_dir = RunDir.create(folder)
        self._recorder = Recorder(self.run_dir, view, None)
        self._controller = Controller(config, self.inbox, self.backend, self._recorder)
        self._thread = threading.Thread(target=self._controller.run, daemon=True)

    def start(self) -> float:
        """To the first step; seconds of the processor for it."""
        self._thread.start()
        self._clock = time.pthread_getcpuclockid(self._thread.ident or 0)
        wait_for(lambda: (self.backend.begun and self.is_idle) or self._is_over, "all workers are forked", STARTED_S)
        assert not self._is_over, [str(event)[:500] for event in self.run_dir.read_events() if event.kind == "failed"]
        first = self.backend.agents[0].workers[0]
        for agent in self.backend.agents:
            for worker in agent.workers:
                agent.say(FromWorker(1, worker, "train", StateFetched(0, {}, 0.1)))
        row = {"step": 1, "loss": 1.0, "tokens": 64, "step_s": 0.01, "tokens_per_s": 6400.0}
        self.backend.agents[0].say(FromWorker(1, first, "train", StepDone(1, row)))
        wait_for(lambda: self.is_idle, "the first step is taken down", STARTED_S)
        return self.cpu_s

    @property
    def _is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether the controller has taken all that has come."""
        return self.inbox._items.empty()

    @property
    def cpu_s(self) -> float:
        """Of the processor, by the controller's thread."""
        return time.clock_gettime(self._clock)

    def beat(self, seconds: float) -> tuple[float, float]:
        """Have all agents beat for so long: what the controller needed of the processor, and how
        much of what came it has handled."""
        turns = [[(a, encode(b)) for b in beats_of(a, self.num_workers)] for a in self.backend.agents]
        rows = list(zip(*turns, strict=True))
        every_s = DEADLINES.of_workers(self.num_workers).heartbeat_every_s
        before, begun, num_put = self.cpu_s, time.monotonic(), 0
        for turn in itertools.cycle(rows):
            if time.monotonic() - begun >= seconds:
                break
            for at, (agent, frame) in enumerate(turn):
                self.inbox.put_beat(AgentBeat(agent.name, agent, frame, time.monotonic(), print))
                if at % 50 == 49:  # agents do not beat all at the same moment
                    behind = begun + (num_put + at) * every_s / len(turn) - time.monotonic()
                    time.sleep(max(0.0, behind))
            num_put += len(turn)
            behind = begun + num_put * every_s / len(turn) - time.monotonic()
            time.sleep(max(0.0, behind))
        spent = self.cpu_s - before
        num_left = self.inbox._items.qsize()
        return spent / (time.monotonic() - begun), 1 - num_left / num_put

    def stop(self) -> None:
        self.inbox.put(SignalReceived(2))
        self.inbox.put(SignalReceived(2))
        self._thread.join(STARTED_S)
        self._recorder.close("")  # nothing is written any more


def tell(num_nodes: int, seconds: float, rounds: int) -> None:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(num_nodes, Path(folder) / "run")
        start_s = run.start()
        shares = []
        for _ in range(rounds):
            share, handled = run.beat(seconds)
            shares.append(share / max(handled, 1e-9))
        size = run.run_dir.status_file.stat().st_size
        run.stop()
    spread = f"{min(shares):.1%} to {max(shares):.1%}"
    print(
        f"{num_nodes} nodes, {num_nodes * WORKERS} workers: {statistics.median(shares):.1%} of a core ({spread}); "
        f"start {start_s:.2f} s of the processor; status.json {size / 1e6:.2f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 128, 1250])
    parser.add_argument("--seconds", type=float, default=5.0, help="of heartbeats in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for num_nodes in options.nodes:
        tell(num_nodes, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
