"""From a fault to the next step: ours by kind of fault, and killed workers of others in the same loop size.

    python benchmarks/recovery.py [--only PART ...] [--n N] [--folder DIR]

Parts: kill, stop, agent, agent_spare, fork_server, controller, controller_ray (one machine, the last with a Ray of
its own); node, cable, cable_alone (hosts of a lab, root); drills (random schedules, held against the undisturbed run),
lab_drills (of what takes root and hosts, too); torchft, ray_train, torchrun, lm_resiliency (peers). Each part can run
by itself, later and elsewhere. What it measures is appended to DIR/recovery.jsonl, a line for each fault; the table is
of all lines of this software that are there. Exit status 1 where a fault of these parts was named wrongly or not got
over.

Peers are installed by name into an environment of their own in DIR/peers, which takes torch and Ray from this one. The
same question is asked of all: seconds from SIGKILL of one process to the first step that the group has done together
after it. torchft goes on with one less; ours, Ray Train and torchrun come back at full size.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import site
import socket
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from benchmarks.kept import KeptLines
from dougong.control.environment import child_environment
from dougong.records.directory import RunDir
from dougong.records.events import AgentsStarted, Event, FirstStep, Recovered, SpareStands, SpareTook
from dougong.testing import HostFaults, Lab, LabError, RayCluster
from dougong.tools.drill.on_run import RunDrills
from dougong.tools.drill.proof import Proof
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.small_job import WORKERS, small_job

LINES = "recovery.jsonl"
PEERS = {"torchft": "torchft==0.2.0", "lm_resiliency": "lm-resiliency==0.2.0"}
SIZES = {"lm_resiliency": 4}  # it pairs processes; the others are three
PHASES = ("noticed_s", "decided_s", "left_s", "begun_s", "formed_s", "fetched_s", "first_step_s")
CONTROLLER_PHASES = {
    "created_s": "created",  # the next controller has the lease
    "agents_s": "agents_started",
    "inspected_s": "inspected",
    "probed_s": "fingerprints",
    "generation_s": "generation_started",
    "restored_s": "state_restored",
    "first_step_s": "first_step",
}
START_S, RECOVER_S, PEER_S = 120, 180, 120
KILLS_OF_A_RUN = 3


@dataclass(frozen=True)
class Found:
    """One fault. `seconds`: until training went on, None where it did not; `phases`: seconds since the fault at which
    each part of the way was done."""

    part: str
    seconds: float | None
    phases: dict[str, float | None]
    right: bool = True
    tier: str = ""

    def write(self, folder: Path) -> None:
        KeptLines(folder / LINES).add(vars(self) | {"load": round(os.getloadavg()[0], 1)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--n", type=int, default=20, help="faults of each part on one machine; a fifth in the lab")
    parser.add_argument("--folder", type=Path, default=Path("runs/recovery"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        print(f"{part}: load {os.getloadavg()[0]:.1f}", flush=True)
        try:
            PARTS[part](options.folder, part, options.n)
        except (MissingError, LabError) as error:
            print(f"{part}: left out: {error}", flush=True)
    return 0 if report(options.folder, options.only) else 1


class MissingError(Exception):
    """What a part needs is not here."""


# Ours, on one machine.


LOCAL = {"kill": "kill", "stop": "stop", "agent": "kill_agent", "fork_server": "kill_fork_server"}


def ours(folder: Path, part: str, n: int) -> None:
    """One run that allows drills, struck again and again."""
    with long_run(folder / f"run-{part}-{time.time_ns()}") as run_dir:
        drills = RunDrills(run_dir)
        for number in range(n):
            before = len(run_dir.read_events())
            verdict = drills.rehearse(PlannedFault(LOCAL[part], WORKERS[number % len(WORKERS)], after_s=1.0))
            recovered = last_recovery(run_dir.read_events()[before:])
            Found(part, verdict.recovered_s, phases_of(recovered), verdict.is_right, verdict.tier).write(folder)
            print(f"  {number + 1} of {n}: {verdict}", flush=True)


def agents_with_spare(folder: Path, part: str, n: int) -> None:
    """The agent of an island that has a spare is killed, whenever one stands by; a few times in each run, as a machine
    whose agents die again and again is left alone for longer and longer."""
    islands = small_job()["islands"]
    islands[1]["spares"] = 1
    worker = WORKERS[1]
    for first in range(0, n, KILLS_OF_A_RUN):
        with long_run(folder / f"run-{part}-{time.time_ns()}", islands=islands) as run_dir:
            for number in range(first, min(n, first + KILLS_OF_A_RUN)):
                until(lambda run=run_dir: stands_by(run.read_events()), "a spare stands by", START_S)
                before = len(run_dir.read_events())
                verdict = RunDrills(run_dir).rehearse(PlannedFault("kill_agent", worker, after_s=1.0))
                events = run_dir.read_events()[before:]
                took = any(isinstance(event, SpareTook) for event in events)
                phases, is_right = phases_of(last_recovery(events)), verdict.is_right and took
                Found(part, verdict.recovered_s, phases, is_right, verdict.tier).write(folder)
                words = "a spare took the place" if took else "no spare"
                print(f"  {number + 1} of {n}: {verdict}; {words}", flush=True)


def stands_by(events: Sequence[Event]) -> bool:
    """Whether one has come since the last one was taken."""
    last = [event for event in events if isinstance(event, SpareStands | SpareTook)]
    return bool(last) and isinstance(last[-1], SpareStands)


def controllers(folder: Path, part: str, n: int) -> None:
    """The controller is killed; the command beside it goes on by itself."""
    ray = () if part == "controller_ray" else ("--no-ray",)
    with long_run(folder / f"run-{part}-{time.time_ns()}", ray) as run_dir:
        for number in range(n):
            time.sleep(3.0)
            before = last_agents(run_dir)
            phases = kill_controller(run_dir)
            went_over = last_agents(run_dir) == before
            Found(part, phases["first_step_s"], dict(phases), went_over).write(folder)
            print(f"  {number + 1} of {n}: {phases}{'' if went_over else ', with other agents'}", flush=True)


def last_agents(run_dir: RunDir) -> set[int]:
    """The processes of the agents with which training began last."""
    started = [event for event in run_dir.read_events() if isinstance(event, AgentsStarted)]
    return {agent.pid for agent in started[-1].agents}


def kill_controller(run_dir: RunDir) -> dict[str, float]:
    """Seconds until each part of the way to the next step was done."""
    before, known, began = len(run_dir.read_events()), run_dir.read_controller(), time.monotonic()
    assert known is not None
    os.kill(known.pid, signal.SIGKILL)

    def seen() -> dict[str, float]:
        return {event.kind: event.monotonic_s for event in run_dir.read_events()[before:]}

    until(lambda: "first_step" in seen(), "a step", RECOVER_S)
    moments = seen()
    named = {name: moments[kind] for name, kind in CONTROLLER_PHASES.items() if kind in moments}
    return {name: round(moment - began, 3) for name, moment in named.items()}


@contextlib.contextmanager
def long_run(path: Path, flags: Sequence[str] = ("--no-ray",), **changes: Any) -> Iterator[RunDir]:
    """The small job, without an end, on this machine."""
    job = path.with_suffix(".yaml")
    values = small_job(steps=10**6, drill="allowed", checkpoint={"every": 50}, **changes)
    job.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "dougong", "run", str(job), *flags, "--run-dir", str(path)]
    with path.with_suffix(".out").open("w") as out:
        process = subprocess.Popen(
            words, env=child_environment({}), stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        until(lambda: has_stepped(path, process), "the first step", START_S)
        yield RunDir(path)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(RECOVER_S)


def has_stepped(path: Path, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise SystemExit(path.with_suffix(".out").read_text())
    return path.is_dir() and any(isinstance(event, FirstStep) for event in RunDir(path).read_events())


def last_recovery(events: Sequence[Event]) -> Recovered | None:
    found = [event for event in events if isinstance(event, Recovered)]
    return found[-1] if found else None


def phases_of(recovered: Recovered | None) -> dict[str, float | None]:
    return {} if recovered is None else {name: getattr(recovered, name) for name in PHASES}


# Ours, in a lab.


def in_lab(folder: Path, part: str, n: int) -> None:
    """node0 holds the controller and Ray's head, two nodes the workers, and the fourth a spare, if any."""
    fault = "kill_node" if part == "node" else "pull_cable_for_good"
    has_spare = part != "cable_alone"
    for number in range(max(3, n // 5)):
        with Lab(num_hosts=4 if has_spare else 3) as lab:
            cluster = lab.start_ray(labels=lambda host: {"lab": "head" if host.name == "node0" else "work"})
            found = lose_host(lab, cluster, fault, has_spare)
            if found is None:
                print(f"  {number + 1}: has not trained again within {RECOVER_S} s", flush=True)
                continue
            Found(part, *found).write(folder)
            print(f"  {number + 1}: {found[0]:.2f} s", flush=True)


def lose_host(
    lab: Lab, cluster: RayCluster, fault: str, has_spare: bool
) -> tuple[float, dict[str, float | None]] | None:
    islands: list[dict[str, Any]] = [
        {"name": name, "role": role, "accelerator": "cpu", "workers": 1, "node": "lab=work"}
        for name, role in (("east", "attention"), ("west", "both"))
    ]
    if has_spare:
        islands[-1]["spares"] = 1
    path, job = lab.shared / "run", lab.shared / "job.yaml"
    job.write_text(yaml.safe_dump(small_job(steps=10**6, checkpoint={"every": 20}, drill=[], islands=islands)))
    words = ["dougong", "run", str(job), "--address", cluster.address, "--run-dir", str(path)]
    process = lab.hosts[0].start(words)

    def is_ready() -> bool:
        status = RunDir(path).read_status() if path.is_dir() else None
        if status is None or status.step < 30:
            return False
        return not has_spare or stands_by(RunDir(path).read_events())

    try:
        until(is_ready, "step 30, with the spare", START_S)
    except TimeoutError as error:
        raise SystemExit(f"{error}:\n{process.output}") from error
    status = RunDir(path).read_status()
    assert status is not None
    name = status.workers[-1].host
    (lost,) = [host for host in lab.hosts if name in (host.name, *host.addresses)]
    before, began = len(RunDir(path).read_events()), time.monotonic()
    HostFaults(lost).inflict(fault)
    with contextlib.suppress(TimeoutError):
        until(lambda: last_recovery(RunDir(path).read_events()[before:]) is not None, "a recovery", RECOVER_S)
    events = RunDir(path).read_events()[before:]
    process.signal(signal.SIGKILL)  # the lab ends the rest
    steps = [event for event in events if isinstance(event, FirstStep)]
    return (steps[0].monotonic_s - began, phases_of(last_recovery(events))) if steps else None


# Proofs.


def drills(folder: Path, part: str, n: int) -> None:
    """Random schedules, each to the bits of the undisturbed run."""
    proof = Proof(folder / "drills", seed=1, has_lab=part == "lab_drills")
    for rehearsal in proof.rehearse(n):
        print(f"  {rehearsal.key}: {'; '.join(map(str, rehearsal.verdicts))}; {rehearsal.bits}", flush=True)
    print(f"  {proof.summary(n).words}", flush=True)


# Peers.


def peer(folder: Path, part: str, n: int) -> None:
    python = peers_python(folder, part)
    for number in range(max(3, n // 5)):
        place = folder / f"peer-{part}-{time.time_ns()}"
        place.mkdir()
        processes = START[part](python, place)
        try:
            seconds = kill_one(place, SIZES.get(part, 3))
            Found(part, seconds, {}).write(folder)
            print(f"  {number + 1}: {seconds:.2f} s", flush=True)
        except TimeoutError as error:
            print(f"  {number + 1}: {error}", flush=True)
        finally:
            end(processes)


def peers_python(folder: Path, part: str) -> str:
    """An interpreter that finds the peer, and our torch and Ray."""
    if part not in PEERS:
        return sys.executable
    home = folder / "peers"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        ours_here = [path for path in site.getsitepackages() if Path(path).is_dir()]
        found = subprocess.run([str(python), "-c", "import site; print(site.getsitepackages()[0])"],
                               capture_output=True, text=True, check=True)  # fmt: skip
        (Path(found.stdout.strip()) / "ours.pth").write_text("\n".join(ours_here) + "\n")
    more = ["opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"] if part == "torchft" else []
    words = [str(python), "-m", "pip", "install", "-q", "--no-deps", PEERS[part]]
    for arguments in (words, [*words[:5], *more]) if more else (words,):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MissingError(f"`pip install {PEERS[part]}`: {done.stderr.strip().splitlines()[-1:]}")
    return str(python)


PROGRAM = str(Path(__file__).with_name("recovery_peers.py"))


def start(words: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    out = (place / f"{time.time_ns()}.out").open("w")
    return subprocess.Popen(list(words), stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                            env=child_environment({"OMP_NUM_THREADS": "1"}))  # fmt: skip


def free_address() -> str:
    """Where nobody listens: what an earlier try has left must not be met again."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def start_torchft(python: str, place: Path) -> list[subprocess.Popen[bytes]]:
    lighthouse = str(Path(python).with_name("torchft_lighthouse"))
    address = f"http://{free_address()}"
    words = [lighthouse, "--bind", address.removeprefix("http://"), "--min_replicas", "1", "--join_timeout_ms", "100",
             "--quorum_tick_ms", "10", "--heartbeat_timeout_ms", "1000"]  # fmt: skip
    started = [start(words, place)]
    return [*started, *(start([python, PROGRAM, "torchft", str(place), str(i), address], place) for i in range(3))]


def start_torchrun(python: str, place: Path) -> list[subprocess.Popen[bytes]]:
    words = [python, "-m", "torch.distributed.run", "--nproc-per-node=3", "--max-restarts=100",
             "--monitor-interval=0.1", f"--rdzv-endpoint={free_address()}", "--rdzv-backend=c10d",
             PROGRAM, "torchrun", str(place)]  # fmt: skip
    return [start(words, place)]


def start_lm_resiliency(python: str, place: Path) -> list[subprocess.Popen[bytes]]:
    context = place / "context"
    context.mkdir(mode=0o700)  # it insists
    configuration = f"store_type=tcp,read_timeout=60,lm_resiliency_restart_context_path={context}/context.json"
    words = [python, PROGRAM, "launch_lm_resiliency", "--nnodes=1:1", "--nproc-per-node=4", "--max-restarts=100",
             "--monitor-interval=0.1", "--rdzv-backend=lm_resiliency", f"--rdzv-endpoint={free_address()}",
             "--rdzv-id=bench", f"--rdzv-conf={configuration}", PROGRAM, "lm_resiliency", str(place)]  # fmt: skip
    return [start(words, place)]


def start_ray_train(python: str, place: Path) -> list[subprocess.Popen[bytes]]:
    return [start([python, PROGRAM, "ray_train", str(place), "3"], place)]


START = {"torchft": start_torchft, "torchrun": start_torchrun, "lm_resiliency": start_lm_resiliency,
         "ray_train": start_ray_train}  # fmt: skip


def steps_of(place: Path) -> list[tuple[float, int, int]]:
    """(moment, step, process) of every line that any process has written."""
    found = []
    for file in place.glob("*.steps"):
        for line in file.read_text().splitlines():
            moment, step, pid = line.split()
            found.append((float(moment), int(step), int(pid)))
    return sorted(found)


def kill_one(place: Path, size: int) -> float:
    """Seconds from SIGKILL of one of `size` to the group's next step; one that was being ended as it came is none."""
    until(lambda: len({pid for _, step, pid in steps_of(place) if step >= 20}) == size, "step 20 of all", START_S)
    before = steps_of(place)
    known, (_, last, victim) = {pid for _, _, pid in before}, before[-1]
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)

    def new() -> list[float]:
        after = [line for line in steps_of(place) if line[0] > began]
        return [moment for moment, step, pid in after if pid not in known or step >= last + 2]

    until(lambda: bool(new()), "a step after the kill", PEER_S)
    return new()[0] - began


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """With all that they have started in their sessions."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    time.sleep(2)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# Told.


def until(condition: Callable[[], Any], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)


def report(folder: Path, asked: Sequence[str]) -> bool:
    """Medians and worst, where the time goes, and ratios. Whether all faults of these parts were named and got over."""
    medians, kept = {}, KeptLines(folder / LINES)
    lines = kept.read()
    kept.tell_others()
    for part in PARTS:
        rows = [line for line in lines if line["part"] == part]
        seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
        if seconds:
            loads = [row["load"] for row in rows]
            medians[part] = statistics.median(seconds)
            print(f"{part}: median {medians[part]:.2f} s, worst {max(seconds):.2f} s, n {len(rows)}, "
                  f"load {min(loads)} to {max(loads)}{way(rows)}")  # fmt: skip
    wrong = [line for line in lines if line["part"] in asked and not (line["right"] and line["seconds"] is not None)]
    for line in wrong:
        print(f"{line['part']}: one was not right, or not got over: {line['seconds']} s")
    for part in (*PEERS, "ray_train", "torchrun"):
        if part in medians and "kill" in medians:
            print(f"{part} over dougong, killed worker: {medians[part] / medians['kill']:.2f}")
    return not wrong


def way(rows: Sequence[dict[str, Any]]) -> str:
    """The medians of when each part of the way was done."""
    told = []
    for name in dict.fromkeys((*PHASES[:-1], *CONTROLLER_PHASES)):
        known = [row["phases"][name] for row in rows if row["phases"].get(name) is not None]
        if known:
            told.append(f"{name.removesuffix('_s').replace('_', ' ')} {statistics.median(known):.3f}")
    return f"; {', '.join(told)}" if told else ""


PARTS: dict[str, Callable[[Path, str, int], None]] = {
    **dict.fromkeys(LOCAL, ours),
    "agent_spare": agents_with_spare,
    **dict.fromkeys(("controller", "controller_ray"), controllers),
    "node": in_lab,
    "cable": in_lab,
    "cable_alone": in_lab,
    "drills": drills,
    "lab_drills": drills,
    **dict.fromkeys(START, peer),
}


if __name__ == "__main__":
    sys.exit(main())
