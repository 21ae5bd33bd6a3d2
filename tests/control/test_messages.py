"""Every message survives the wire, and what is no message is one clear error."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading
from dougong.control import fork_messages as fork
from dougong.control import handshake, tasks
from dougong.control import messages as wire
from dougong.control import worker_messages as worker
from dougong.control.messages import Message, ProtocolError, decode, encode
from dougong.control.path_messages import PathEnd, PathResult
from dougong.control.progress import WorkerProgress
from dougong.deadlines import DEADLINES
from dougong.job.drills.drill import Drill
from dougong.job.schema import Job
from dougong.parallel.bridge.measured import CopyRates, MeasuredLink
from dougong.parallel.plan import Inventory, Seat, TensorSpec, make_plan
from dougong.storage.trouble import Trouble
from tests.launcher.toyrun import toy_job

XID = DeviceFault("Xid 79", "it has fallen off the bus", "give_up")
JOB = Job.model_validate(toy_job(steps=7, step_s=0.25, faults=[{"worker": "east/0", "step": 3, "do": "kill"}]))
INVENTORY = Inventory(
    family="toy",
    tensors=(TensorSpec("embed", (7, 3), True), TensorSpec("scale", (), False)),
    sites=("layer.0", "layer.1"),
    num_experts=4,
    expert_shapes=(("up", (5, 3)), ("down", (3, 5))),
    experts_per_token=2,
)
PLAN = make_plan(4, INVENTORY, [Seat(f"east/{i}", "east", "both", "node-1", f"cpu:{i}") for i in range(2)])
TRAIN = tasks.TrainTask(
    entry="a.module:train",
    job=JOB,
    plan=PLAN,
    run_dir="/runs/toy",
    console="east/0",
    resume="/runs/toy/checkpoints/step-000005",
    drills=(Drill(at_step=6, kill="east/1"),),
)
FINGERPRINT = tasks.FingerprintTask("a.module:probe", JOB, {"east/0": "cuda:1"}, {"rows": [1, 2]})
AGENT = handshake.AgentFacts("east", "east", "node-1", 7, "cuda", 8, {"torch": "2.13.0"}, {"A": "1"}, "abc")
RAISED = worker.WorkerRaised("OSError", ("OSError", "Exception"), "no space left", "Traceback ...\n", 28)

END = PathEnd("west", "node1", "fd00::2", 20001, "eth0", 9000, (20000, 20100), True)
EXAMPLES: tuple[Message, ...] = (
    handshake.Challenge("00ff"),
    handshake.Hello("aa", "bb"),
    handshake.Hello("aa", "bb", AGENT),
    handshake.Hello("aa", "bb", dataclasses.replace(AGENT, devices=None, ray_node=None)),
    handshake.Welcome("cc"),
    wire.ForkWorkers(3, ("east/0", "east/1"), TRAIN),
    wire.ForkWorkers(3, (), dataclasses.replace(TRAIN, resume=None, drills=())),
    wire.ForkWorkers(0, ("east/0",), tasks.InspectTask("a.module:inspect", JOB)),
    wire.ForkWorkers(0, ("east/0",), FINGERPRINT),
    wire.StopAfterStep(3),
    wire.RestAfterStep(3),
    wire.LeaveGeneration(3),
    wire.KillWorkers(3),
    wire.KillWorkers(3, ("east/1",)),
    wire.InflictFault(3, "east/1", "stop", 2.5),
    wire.ToWorker(3, "east/0", worker.StoreReply(7, "AAE=")),
    wire.JoinGeneration(4, TRAIN, "10.0.0.2"),
    wire.EndAgent(),
    wire.Ping(),
    wire.PathsOpen(END),
    wire.TryPaths(2, (END, dataclasses.replace(END, interface=None, mtu=None))),
    wire.PathsTried(2, (PathResult("west", 20001, "too_large", "timed out"),)),
    wire.AgentReady(4711),
    wire.ForkServerReplaced("fork server (pid 3) was ended by SIGKILL", 4),
    wire.AgentFailed("no module named 'x'\nline two", is_preempted=True),
    wire.Heartbeat(3, 12, {"east/0": WorkerProgress(9, 4, "backward", 17)}),
    wire.DevicesRead({"cuda:0": DeviceReading(0, "GPU-1", (XID,), 1, 2, 3, True, ("power",), 71)}),
    wire.DevicesRead(problem="no answer for 10 s"),
    wire.WorkerForked(3, "east/0", 4712),
    wire.WorkerExited(3, "east/0", "train", -9, 4712, True, True, ("last", "words"), "why"),
    wire.WorkerExited(0, "east/0", "inspect", 1),
    wire.OutputLine(3, "east/0", "ünïcode \x1b[31mred\x1b[0m"),
    wire.FromWorker(3, "east/0", "train", worker.WorkerDone()),
    wire.FromWorker(3, "east/0", "train", RAISED),
    worker.ModelFound(INVENTORY, {"name": "stdlib", "digest": "d"}, {"rows": [1]}),
    worker.ModelFound(INVENTORY, {}, None, ("2 tensors not used",), ("no separator",)),
    worker.FingerprintFound({"probes": {"adding": "same"}}),
    worker.StepDone(3, {"step": 3, "loss": 0.1 + 0.2, "tokens": 2**53 + 1, "islands": {"east": [1, None]}}),
    worker.UpdateSkipped(5, 1.5, float("inf"), "not finite: the gradient of a", 2),
    worker.StepRepeated(5, "the gradient of a"),
    worker.StepValidated(5, float("inf"), 0.25),
    worker.PartDurable(5, "step-000005.1", {"files": {"a": {"bytes": 3}}}),
    worker.SaveFailed(5, "no space left"),
    worker.StorageTold(trouble=Trouble("the ledger's files", "no space left", 12.5, (("records", 3),))),
    worker.DrillAnnounced(5, "kill"),
    worker.WorkerWarning("slow storage"),
    RAISED,
    dataclasses.replace(RAISED, stays=True),
    worker.WorkerLeft(12),
    worker.WorkerRests(),
    worker.StateFetched(12, {"own": 4096, "peer": 0}, 0.02),
    worker.StateFetched(12, {}, 0.02, ({"step": 12, "generation": 1, "loss": 2.5},), validates=True),
    worker.LinksProbed(
        (MeasuredLink("a/0", "b/0", ("a", "b"), "host-staged", 2e-4, 9.5e8, "gloo"),), {"a/0": CopyRates(5e9, 6e9)}
    ),
    worker.StoreRequest(7, "set", ("a/b",), "AAE="),
    worker.StoreReply(7, amount=2, error="why"),
    worker.WorkerDone(),
    wire.StopRun(True),
    wire.OrderDrill("kill_agent", "east/1"),
    wire.Acknowledged(),
    wire.RequestRefused("not now"),
    fork.StartServer(("a.module", "b.module:warm"), DEADLINES, model_types=("qwen3_moe",)),
    fork.ForkRequest(1, 3, "east/0", "10.0.0.2", TRAIN),
    fork.KillRequest(4712),
    fork.SignalRequest(4712, 19),
    fork.ServerReady(),
    fork.ServerBroken("Traceback ...\n"),
    fork.Forked(1, 4712),
    fork.ForkFailed(1, "no memory"),
    fork.ChildExited(4712, -11),
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_a_message_survives_the_wire(message: Message) -> None:
    frame = encode(message)
    assert frame.count(b"\n") == 1
    assert frame.endswith(b"\n")
    assert decode(frame[:-1]) == message
    assert type(decode(frame)) is type(message)


def test_no_message_is_left_out_above() -> None:
    assert {type(message) for message in EXAMPLES} == set(get_args(Message))


def test_kinds_are_unique() -> None:
    kinds = [example.kind for example in {type(message): message for message in EXAMPLES}.values()]
    assert len(set(kinds)) == len(get_args(Message))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_may_hold_what_is_no_number(value: float) -> None:
    row = {"step": 3, "loss": value, "deep": {"list": [value]}}
    arrived = decode(encode(wire.FromWorker(1, "east/0", "train", worker.StepDone(3, row))))
    assert isinstance(arrived, wire.FromWorker)
    assert isinstance(arrived.message, worker.StepDone)
    assert repr(arrived.message.row) == repr(row)


def changed(message: Message, /, **fields: Any) -> bytes:
    """The message's frame with other fields."""
    return json.dumps({**json.loads(encode(message)), **fields}).encode()


def without(message: Message, field: str) -> bytes:
    fields = json.loads(encode(message))
    del fields[field]
    return json.dumps(fields).encode()


KILL = wire.KillWorkers(3)
FROM = wire.FromWorker(3, "east/0", "train", worker.WorkerDone())
FORK = wire.ForkWorkers(3, ("east/0",), TRAIN)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "not a message: b'': Invalid JSON"),
        (b"hello", "not a message: b'hello': Invalid JSON"),
        (b"[]", "not a message: b'[]': Input should be an object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON: recursion limit"),
        (b"{}", "not a message: b'{}' has no kind"),
        (b'{"kind": 7}', "unknown message kind 7"),
        (b'{"kind": "hail"}', "unknown message kind hail"),
        (changed(FROM, message={"kind": "stop_run"}), "unknown message kind stop_run in from_worker.message"),
        (changed(FORK, task={"task": "dance"}), "unknown message kind dance in fork_workers.task"),
        (without(KILL, "generation"), "kill_workers.generation is missing"),
        (changed(KILL, generation=True), "kill_workers.generation is True: Input should be a valid integer"),
        (changed(KILL, generation="1"), "kill_workers.generation is '1': Input should be a valid integer"),
        (changed(KILL, more=2), "kill_workers.more is 2: Unexpected keyword argument"),
        (changed(FORK, workers="east/0"), "fork_workers.workers is 'east/0': Input should be a valid array"),
        (
            changed(FORK, task={**json.loads(encode(FORK))["task"], "fence": "first"}),
            "fork_workers.task.train.fence is 'first': Input should be a valid integer",
        ),
    ],
)
def test_what_is_no_message_is_refused_with_place_value_and_rule(frame: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(frame, "agent east at 10.0.0.2")
    text = str(caught.value)
    assert text.startswith("agent east at 10.0.0.2: ")
    assert reason in text
    assert len(text) < 250
    assert "\n" not in text


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(changed(KILL, generation="x" * 10_000))
    assert len(str(caught.value)) < 250


def test_a_part_that_checks_itself_refuses_as_any_other() -> None:
    task = json.loads(encode(FORK))["task"]
    task["plan"]["num_experts"] = 5
    with pytest.raises(ProtocolError, match="each of 0 to 4 needs one owner"):
        decode(changed(FORK, task=task))


def test_a_wrong_job_is_refused() -> None:
    task = json.loads(encode(FORK))["task"]
    task["job"]["steps"] = 0
    with pytest.raises(ProtocolError, match=r"fork_workers.task.train.job.steps is 0"):
        decode(changed(FORK, task=task))
