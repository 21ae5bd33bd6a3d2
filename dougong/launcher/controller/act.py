"""Act: do what was decided. Nothing here has an opinion; what cannot be done is an error."""

from __future__ import annotations

import os
import socket
from functools import partial

from dougong.addresses import read_ports
from dougong.control.handshake import AgentFacts, FolderTrouble
from dougong.control.messages import (
    Acknowledged,
    ForkWorkers,
    KillWorkers,
    LeaveGeneration,
    RestAfterStep,
    StopAfterStep,
    ToWorker,
)
from dougong.control.network.path_probe import try_paths
from dougong.control.path_messages import CONTROLLER, PathEnd, TryPaths
from dougong.control.plan_file import plan_for_workers
from dougong.control.tasks import FingerprintTask, InspectTask, TrainTask
from dougong.control.worker_messages import StoreReply
from dougong.fault.self_inflicted import inflict
from dougong.launcher.agent.here.open_files import open_files_here, refuse_agents
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import Backend
from dougong.launcher.controller.actions import (
    Action,
    AdoptChannel,
    AnswerWorkers,
    AskForFingerprints,
    AskForModel,
    AskForPaths,
    AskToRest,
    AskToStop,
    AskWhoEnded,
    BeginReserve,
    CloseChannel,
    CommitCheckpoint,
    DropAgent,
    EndGeneration,
    EndRested,
    FindCheckpoint,
    FireDrill,
    ForkGeneration,
    KillLate,
    ListNodes,
    OpenBackend,
    Record,
    RecordStep,
    SeekNodes,
    SeeReserve,
    ShowException,
    ShowLine,
    StartAgents,
    TryMachine,
    UseModel,
    UsePlan,
)
from dougong.launcher.controller.checkpoints import CheckpointManager, RunOrigin
from dougong.launcher.controller.config import ControllerConfig
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.connections import Connections, KnownElsewhere
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.controller.inbound.items import (
    AgentsEnded,
    AgentsPlaced,
    Awaited,
    BackendOpened,
    Item,
    NodesListed,
    OwnPathsTried,
    PeerRefused,
)
from dougong.launcher.controller.inbound.reserve_calls import begin_reserve, see_reserve
from dougong.planner.placement import AgentSpec, devices_of
from dougong.records.events import FirstStep
from dougong.records.kept_sources import keep_sources
from dougong.records.shared_folder import FolderProver
from dougong.records.status import ControllerAddress
from dougong.ui.recorder import Recorder

_OfBackend = (
    OpenBackend | ListNodes | SeekNodes | StartAgents | AskWhoEnded | SeeReserve | BeginReserve
)
_OfGeneration = (
    ForkGeneration | AskToStop | AskToRest | EndRested | EndGeneration | KillLate | FireDrill
)


class Actor:
    """The hands of one controller. It reads the facts, and leaves them as they are."""

    def __init__(
        self,
        config: ControllerConfig,
        facts: RunFacts,
        inbox: Inbox,
        backend: Backend,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._facts = facts
        self._inbox = inbox
        self._backend = backend
        self._recorder = recorder
        self._run_dir = recorder.run_dir
        self._backend_thread = Background("dougong-backend", inbox)
        self._path_thread = Background("dougong-paths", inbox)
        self._storage_thread = Background("dougong-commit", inbox)
        self._checkpoints = CheckpointManager(
            self._run_dir.checkpoints,
            config.job,
            self._storage_thread,
            config.resume_point,
            self._run_dir.stream_metrics,
            config.fence,
            config.key,
        )
        self._connections: Connections | None = None
        self._prover: FolderProver | None = None

    def act(self, action: Action) -> None:
        """Do it."""
        match action:
            case Record() | RecordStep() | ShowLine() | ShowException():
                self._show(action)
            case AnswerWorkers(generation, answers):
                self._answer(generation, answers)
            case AdoptChannel() | CloseChannel() | DropAgent() | TryMachine():
                self._connect(action)
            case _ if isinstance(action, _OfBackend):
                self._start(action)
            case AskForPaths(number, wanted):
                self._ask_for_paths(number, wanted)
            case AskForModel(agent, worker):
                self._ask_for_model(agent, worker)
            case AskForFingerprints(workers):
                self._ask_for_fingerprints(workers)
            case UseModel(model) if model.sources is not None and model.sources.is_whole:
                keep_sources(self._run_dir, model.sources)
            case UsePlan() | FindCheckpoint() | CommitCheckpoint():
                self._store(action)
            case _ if isinstance(action, _OfGeneration):
                self._command(action)

    def close(self) -> None:
        """End the agents, their nodes, and what runs in the background. A commit that was begun,
        or a deletion, ends first, if it takes no longer than the workers' end may."""
        if self._connections is not None:
            self._connections.close()
        self._backend.close()
        if self._prover is not None:
            self._storage_thread.call(self._prover.close)
        self._storage_thread.settle(self._config.deadlines.kill_s)

    @property
    def _reach(self) -> Connections:
        assert self._connections is not None, "no agent can have joined before we listen"
        return self._connections

    def _show(self, news: Record | RecordStep | ShowLine | ShowException) -> None:
        match news:
            case Record(event):
                self._recorder.record(event)
                self._checkpoints.note(event)
                if isinstance(event, FirstStep) and (text := self._config.job_text) is not None:
                    self._recorder.keep("job.yaml", partial(self._run_dir.write_job, text))
            case RecordStep(row):
                self._recorder.step(row)
            case ShowLine(worker, text):
                self._recorder.view.worker_line(worker, text)
            case ShowException(worker, error):
                self._recorder.view.worker_raised(worker, error)

    def _connect(self, action: AdoptChannel | CloseChannel | DropAgent | TryMachine) -> None:
        match action:
            case AdoptChannel(agent, channel):
                self._reach.adopt(agent, channel)
            case DropAgent(agent):
                self._reach.drop(agent)
            case TryMachine(agent):
                end = self._facts.agents[agent].path_end
                if end is not None:
                    self._reach.try_machine(end)
            case CloseChannel(channel, answer):
                # A client that did not wait for its answer has its request met even so.
                try:
                    if answer == Acknowledged():
                        answer = Acknowledged(self._recorder.storage_words())
                    if answer is not None:
                        channel.send(answer)
                except OSError as error:
                    self._inbox.put(PeerRefused(f"a client left before its answer: {error}"))
                channel.close()

    # Agents

    def _start(self, action: _OfBackend) -> None:
        match action:
            case OpenBackend():
                self._backend_thread.call(lambda: BackendOpened(self._backend.open()))
            case ListNodes(host, kinds):
                self._listen(host)
                self._backend_thread.call(lambda: NodesListed(tuple(self._backend.nodes(kinds))))
            case SeekNodes(agents, kinds):
                self._backend_thread.call(lambda: self._seek(agents, kinds))
            case StartAgents(specs):
                self._backend_thread.call(lambda: self._place(specs))
            case AskWhoEnded():
                self._backend_thread.call(lambda: AgentsEnded(self._backend.ended()))
            case SeeReserve(gone, kinds):
                self._backend_thread.call(lambda: see_reserve(self._backend, gone, kinds))
            case BeginReserve(specs):
                self._backend_thread.call(lambda: self._begin_reserve(specs))

    def _listen(self, host: str) -> None:
        """Open the server for agents and clients."""
        config = self._config
        self._connections = Connections(
            self._inbox,
            host,
            config.token,
            config.deadlines,
            read_ports(config.job.ports),
            KnownElsewhere(self._trouble_of, self._backend.how_ended),
        )
        self._connections.number(config.fence)
        reached_at, port = self._connections.address
        address = ControllerAddress(
            host=reached_at,
            port=port,
            pid=os.getpid(),
            token=config.token,
            machine=socket.gethostname(),
            beside=os.getppid() if config.is_followed else None,
        )
        self._run_dir.write_controller(address)

    def _ask_for_paths(self, number: int, wanted: dict[str, tuple[str, ...]]) -> None:
        """Have agents try, and try from here; all at the same time."""
        ends = {**self._facts.agents.path_ends, CONTROLLER: (own := self._reach.path_end)}
        self._reach.know(end for name, end in ends.items() if name != CONTROLLER)
        for name, others in wanted.items():
            known = tuple(ends[other] for other in others if other in ends)
            if name == CONTROLLER:
                self._path_thread.call(partial(self._try_paths, own, TryPaths(number, known)))
            else:
                self._reach.send(name, TryPaths(number, known))

    def _try_paths(self, own: PathEnd, asked: TryPaths) -> OwnPathsTried:
        results = try_paths(asked, self._config.token, self._config.deadlines)
        return OwnPathsTried(asked.number, own, results)

    # What follows runs in the backend's thread. It reads only what is fixed by then: the server
    # listens before the nodes are listed.

    def _place(self, specs: tuple[AgentSpec, ...]) -> AgentsPlaced:
        refuse_agents(len(specs), open_files_here())
        self._ask_for_proof(specs)
        self._backend.start(specs, self._settings_of, self._tell_awaited)
        return AgentsPlaced()

    def _begin_reserve(self, specs: tuple[AgentSpec, ...]) -> Item:
        def start() -> None:
            self._ask_for_proof(specs)
            self._backend.start(specs, self._settings_of, tell=lambda text: None)

        return begin_reserve(specs, start)

    def _tell_awaited(self, text: str) -> None:
        self._inbox.put(Awaited(text))

    def _seek(self, lost: tuple[str, ...], kinds: tuple[str, ...]) -> NodesListed:
        # First: what a lost agent holds, of which lost may mean cut off, is free for the next one.
        self._backend.end(lost)
        return NodesListed(tuple(self._backend.nodes(kinds)))

    def _ask_for_proof(self, specs: tuple[AgentSpec, ...]) -> None:
        names = [spec.name for spec in specs]
        self._prover = FolderProver.of_run(self._run_dir, names, self._config.deadlines)

    def _trouble_of(self, facts: AgentFacts) -> FolderTrouble | None:
        """In the thread of an agent's connection: what is wrong with the run directory there."""
        prover = self._prover
        return facts.trouble if prover is None else prover.look(facts.agent, facts.trouble)

    def _settings_of(self, spec: AgentSpec) -> AgentSettings:
        proof = None if self._prover is None else self._prover.proof
        return self._config.settings_of(spec, self._reach.address, self._run_dir, proof)

    # Workers

    def _command(self, action: _OfGeneration) -> None:
        match action:
            case ForkGeneration():
                self._fork(action)
            case AskToStop(generation):
                self._reach.send_all(StopAfterStep(generation))
            case AskToRest(generation):
                self._reach.send_all(RestAfterStep(generation))
            case EndRested(generation):
                self._reach.send_all(LeaveGeneration(generation))
            case EndGeneration():
                self._end_generation(action)
            case KillLate(generation, workers):
                self._kill(generation, workers)
            case FireDrill(None, message):
                told_s = self._config.deadlines.storage_told_s
                self._recorder.settle(told_s)  # it comes once
                self._recorder.view.settle(told_s)  # and nobody tells it afterwards
                inflict(message.fault, message.for_s)
            case FireDrill(str(agent), message):
                self._reach.send(agent, message)

    def _end_generation(self, action: EndGeneration) -> None:
        """Kill first: those who leave must not meet a worker that is only half dead."""
        number, leaving = action.generation, action.leaving
        if not leaving:
            self._reach.send_all(KillWorkers(number))
            return
        generation = self._facts.generation_of(number)
        workers = () if generation is None else tuple(generation.workers)
        staying = frozenset(leaving)
        self._kill(number, tuple(name for name in workers if name not in staying))
        self._reach.send_all(LeaveGeneration(number))

    def _kill(self, generation: int, workers: tuple[str, ...]) -> None:
        """End these workers alone. To name none to an agent would be to name all."""
        named = frozenset(workers)
        for handle in self._facts.agents.living:
            own = tuple(name for name in handle.spec.workers if name in named)
            if own:
                self._reach.send(handle.spec.name, KillWorkers(generation, own))

    def _ask_for_model(self, agent: str, worker: str) -> None:
        """Fork a child of generation 0, which looks and answers; so below."""
        config = self._config
        sources, copy = config.sources, config.own_tokenizer(self._run_dir, config.sources)
        task = InspectTask(config.entries.inspect, config.job, sources, copy)
        self._reach.send(agent, ForkWorkers(0, (worker,), task))

    def _ask_for_fingerprints(self, workers: dict[str, tuple[str, ...]]) -> None:
        model, entry = self._facts.model, self._config.entries.fingerprint
        assert model is not None and entry is not None
        for agent, asked in workers.items():
            devices = devices_of(self._facts.agents[agent].spec)
            task = FingerprintTask(entry, self._config.job, devices, model.shapes)
            self._reach.send(agent, ForkWorkers(0, asked, task))

    def _fork(self, action: ForkGeneration) -> None:
        model = self._facts.model
        assert model is not None
        self._config.resume_point.check_generation(action.number)
        task = TrainTask(
            entry=self._config.entries.train,
            job=self._config.job,
            plan=plan_for_workers(action.plan, self._run_dir.plan_file),
            run_dir=str(self._run_dir.path),
            console=action.plan.workers[0].name,
            resume=str(action.resume) if action.resume is not None else None,
            drills=action.drills,
            fence=self._config.fence,
            life=self._config.life,
            rolls_back=action.rolls_back,
            skips=action.skips,
            recorded=min(self._facts.recorded, action.step),
            sources=model.sources,
            tokenizer=self._config.own_tokenizer(self._run_dir, model.sources),
        )
        for handle in self._facts.agents.serving:
            workers = ForkWorkers(action.number, handle.spec.workers, task)
            self._reach.send(handle.spec.name, workers)

    def _answer(self, generation: int, answers: tuple[tuple[str, StoreReply], ...]) -> None:
        for worker, reply in answers:
            handle = self._facts.agents.of_worker(worker)
            if handle is not None:
                self._reach.send(handle.spec.name, ToWorker(generation, worker, reply))

    # Storage

    def _store(self, action: UsePlan | FindCheckpoint | CommitCheckpoint) -> None:
        match action:
            case UsePlan(plan):
                self._recorder.keep("plan.json", partial(self._run_dir.write_plan, plan.to_json()))
                self._recorder.view.plan(plan)
            case FindCheckpoint():
                self._checkpoints.find(self._origin())
            case CommitCheckpoint(step, generation, parts):
                laid, parent = self._facts.plan, self._facts.checkpoints.parent
                assert laid is not None
                messages, origin = list(parts.values()), self._origin()
                self._checkpoints.commit(step, generation, messages, laid, origin, parent)

    def _origin(self) -> RunOrigin:
        assert self._facts.model is not None
        return RunOrigin(self._facts.model, self._facts.judged.kernels)
