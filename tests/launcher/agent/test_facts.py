"""What an agent says of its place."""

from __future__ import annotations

import dataclasses
import os
import platform
import socket
from pathlib import Path

import pytest
from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import arithmetic_variables
from dougong.control.processes import memory_bytes
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError
from dougong.job.schema import Island, Job
from dougong.launcher.agent.facts import (
    absent_devices,
    count_devices,
    describe_agent,
    files_of,
    installed_versions,
    left_out,
    memory_of,
    refuse_variables,
    seen_keys,
    software_here,
    variable_remarks,
    worker_variables,
)
from dougong.records.directory import RunDir
from dougong.records.machine import PACKAGES
from dougong.records.shared_folder import FolderProof, FolderProver
from tests.accelerators.pretended import NAME, offer
from tests.launcher.agent.test_settings import SETTINGS
from tests.launcher.toyrun import toy_job


def test_every_package_that_may_change_bits_must_agree_over_the_nodes() -> None:
    versions = installed_versions()
    assert list(versions) == ["python", *PACKAGES]
    assert versions["python"] == platform.python_version()
    assert versions["torch"][0].isdecimal()


@pytest.mark.parametrize("shared", [False, True])
def test_facts_hold_what_this_process_finds(tmp_path: Path, shared: bool) -> None:
    prover = FolderProver(RunDir.create(tmp_path / "run"), ["east"], DEADLINES)
    proof = prover.proof if shared else FolderProof("another", (str(tmp_path),))
    limits = dataclasses.replace(DEADLINES, shared_file_s=0.1)
    settings = dataclasses.replace(SETTINGS, accelerator="cpu", proof=proof, deadlines=limits, model_types=("olmoe",))
    settings = dataclasses.replace(settings, ray_node="node-of-ray", files=(str(tmp_path), "/not/here"))
    facts = describe_agent(settings, get_accelerator("cpu"), {"OMP_NUM_THREADS": "4"})
    assert (facts.agent, facts.island, facts.accelerator) == ("east", "east", "cpu")
    assert (facts.node, facts.pid, facts.ray_node) == (socket.gethostname(), os.getpid(), "node-of-ray")
    assert facts.devices is None
    # What a test's process has set itself is told, too; what workers get stands over it.
    assert facts.environment["OMP_NUM_THREADS"] == "4" and facts.environment["OMP_DYNAMIC"] == "FALSE"
    assert (facts.trouble is None) is shared
    assert prover.look("east", facts.trouble) == facts.trouble or not shared
    assert "transformers/models/olmoe" in facts.code["transformers"].digests
    assert facts.limits.cpus is not None
    assert facts.absent == ("/not/here",)
    assert facts.memory_bytes == memory_bytes()


def test_files_that_every_machine_must_have_are_those_of_the_job_that_are_here(tmp_path: Path) -> None:
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    for file in (text, tokenizer):
        file.write_text("x")
    job = Job.model_validate(toy_job(data={"text": str(text), "tokenizer": str(tokenizer), "sequence_length": 16}))
    assert files_of(job, begins=True) == (str(text), str(tokenizer))
    assert files_of(job, begins=False) == (str(text),)  # the run keeps what else it has read
    assert files_of(Job.model_validate(toy_job()), begins=True) == ()  # `stdlib` is no file


def test_devices_that_this_machine_lacks_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    east = Island(name="east", accelerator="cuda", workers=2)
    west = Island(name="west", accelerator="cpu", workers=9)
    (note,) = absent_devices([east, west]).notes
    assert note.startswith("island east needs 2 cuda devices, and this machine has 0")
    missing = get_accelerator("cuda").missing()
    assert note.endswith(f" ({missing})" if missing else "has 0")


def test_visible_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = get_accelerator("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_devices(accelerator) == 0
    assert count_devices(get_accelerator("cpu")) is None


def test_workers_get_defaults_of_which_the_user_has_said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, npu = get_accelerator("cuda"), get_accelerator("npu")
    for name in (
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_NPU_ALLOC_CONF",
        "NCCL_LAUNCH_ORDER_IMPLICIT",
    ):
        monkeypatch.delenv(name, raising=False)
    variables = worker_variables(cuda, 1, deterministic=True)
    assert variables["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert (variables["NCCL_LAUNCH_ORDER_IMPLICIT"], variables["TORCH_FR_BUFFER_SIZE"]) == ("1", "2000")
    assert worker_variables(npu, 1, deterministic=True)["PYTORCH_NPU_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")  # its older name: the user has spoken
    monkeypatch.setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "0")
    mine = worker_variables(cuda, 1, deterministic=True)
    assert {"PYTORCH_ALLOC_CONF", "NCCL_LAUNCH_ORDER_IMPLICIT"}.isdisjoint(mine)


def test_variables_that_can_change_bits_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setenv("HCCL_ALGO", "level0:fullmesh")
    settings = dataclasses.replace(SETTINGS, accelerator="cuda", proof=None)
    told = describe_agent(settings, get_accelerator("cuda"), {"OMP_NUM_THREADS": "4"}).environment
    assert (told["NCCL_ALGO"], told["CUDA_DEVICE_MAX_CONNECTIONS"], told["OMP_NUM_THREADS"]) == ("Ring", "1", "4")
    assert "HCCL_ALGO" not in told  # no library of such a worker reads it
    settings = dataclasses.replace(settings, accelerator="npu")
    assert describe_agent(settings, get_accelerator("npu"), {}).environment["HCCL_ALGO"] == "level0:fullmesh"


def test_a_variable_that_breaks_the_promise_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refuse_variables(get_accelerator("cuda"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    refuse_variables(get_accelerator("cpu"))
    with pytest.raises(DeviceError, match="TRITON_INTERPRET=1 is set: fused experts .*; unset TRITON_INTERPRET in"):
        refuse_variables(get_accelerator("cuda"))


def test_memory_is_the_machine_s_where_workers_share_it_and_else_the_device_s() -> None:
    assert memory_of(get_accelerator("cpu")) == memory_bytes()
    assert memory_of(get_accelerator("npu")) is None  # nobody knows it without opening one


def test_this_machine_s_software_is_looked_at_as_an_agent_s() -> None:
    """Or a run on one machine would be refused."""
    here = software_here(Job.model_validate(toy_job()), None)
    settings = dataclasses.replace(SETTINGS, accelerator="cpu", proof=None, model_types=("qwen3_moe",))
    there = describe_agent(settings, get_accelerator("cpu"), {})
    assert (here.host, here.versions) == (there.node, there.versions)
    assert here.code["dougong"] == there.code["dougong"]


def test_devices_that_an_agent_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that its workers' library reads; nothing is said where this machine has none of them."""
    monkeypatch.syspath_prepend(offer(tmp_path / "installed", count=3).folder)
    kind = get_accelerator(NAME)
    assert left_out(kind, ()) == {} and left_out(kind, ("GPU-1",)) == {}
    assert left_out(kind, ("PRE-1",)) == {"PRETENDED_VISIBLE_DEVICES": "0,2"}
    assert seen_keys(kind) == ("PRE-0", "PRE-1", "PRE-2") and seen_keys(get_accelerator("cpu")) == ()
    monkeypatch.setenv("PRETENDED_VISIBLE_DEVICES", "2,1")
    assert left_out(kind, ("PRE-1",)) == {"PRETENDED_VISIBLE_DEVICES": "2"}
    assert seen_keys(kind) == ("PRE-2", "PRE-1")


MIXED = [
    {"name": "east", "accelerator": "cuda", "workers": 1, "role": "attention"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "role": "experts"},
]
SET = {
    "TRITON_INTERPRET": "1",
    "NCCL_ALGO": "Ring",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OMP_NUM_THREADS": "7",
    "SOMETHING_ELSE": "1",
}


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of these variables and no others of arithmetic."""
    for name in set(arithmetic_variables(get_accelerator("cuda").arithmetic_variables)):
        monkeypatch.delenv(name)
    for name, value in SET.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("shell")
def test_what_a_run_would_refuse_or_record_of_the_environment_is_a_line_each() -> None:
    told = variable_remarks(Job.model_validate(toy_job(islands=MIXED)))
    (warning,) = told.warnings
    assert warning.startswith(
        "TRITON_INTERPRET=1 is set here: fused experts would be computed on the host, by other sums;"
    )
    with pytest.raises(DeviceError, match="TRITON_INTERPRET=1 is set"):
        refuse_variables(get_accelerator("cuda"))
    assert told.notes == (
        "MKL_ENABLE_INSTRUCTIONS=AVX2 is set here and can change bits of cpu and cuda workers: they inherit it, and a "
        "run records it",
        "NCCL_ALGO=Ring is set here and can change bits of cuda workers: they inherit it, and a run records it; it "
        "must be the same on all nodes of an island",
    )


@pytest.mark.usefixtures("shell")
def test_a_job_that_promises_no_bits_is_refused_for_none() -> None:
    told = variable_remarks(Job.model_validate(toy_job(islands=MIXED, determinism="off")))
    assert told.warnings == ()
    assert any(
        note.startswith("TRITON_INTERPRET=1 is set here and can change bits of cuda workers") for note in told.notes
    )
