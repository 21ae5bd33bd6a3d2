"""One lab, one Ray and one tiny job for all tests of a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.records.directory import RunDir
from dougong.records.events import to_json
from dougong.testing import Done, Host, HostProcess, Lab, RayCluster
from tests.families import config_values
from tests.launcher.toyrun import wait_for

PROMPT_S = 45
"""A refusal that comes later has waited for something: for a minute (`--wait`), or for two."""

PINNED = [
    {"name": "east", "accelerator": "cpu", "workers": 2, "node": "10.0.0.1"},
    {"name": "west", "accelerator": "cpu", "workers": 2, "node": "10.0.0.2"},
]


@dataclass
class Cluster:
    """Ray on node0 (head), node1 and node2; node3 (`outside`) is in the network and runs none."""

    lab: Lab
    ray: RayCluster

    @property
    def hosts(self) -> list[Host]:
        return self.lab.hosts[:3]

    @property
    def outside(self) -> Host:
        return self.lab.hosts[3]

    @property
    def address(self) -> str:
        return self.ray.address

    def job(self, name: str, **changes: Any) -> Path:
        """A job file in the shared folder; `changes` replace whole sections of `job_values`."""
        path = self.lab.shared / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job_values(self.lab, **changes)))
        return path

    def run_dir(self, name: str) -> Path:
        return self.lab.shared / "runs" / name

    def words(self, name: str, *more: str, address: str | None = None) -> list[str]:
        """`dougong run` of the job of that name into the run directory of that name."""
        where = ["--address", address or self.address, "--run-dir", str(self.run_dir(name))]
        return ["dougong", "run", str(self.lab.shared / f"{name}.yaml"), *where, *more]

    def run(self, host: Host, name: str, *more: str, address: str | None = None, **changes: Any) -> Done:
        """Write the job, run it from this host to its end."""
        self.job(name, **changes)
        return host.run(self.words(name, *more, address=address), timeout_s=120)

    def start(self, host: Host, name: str, *more: str, address: str | None = None, **changes: Any) -> HostProcess:
        """The same, without waiting."""
        self.job(name, **changes)
        return host.start(self.words(name, *more, address=address))

    def read(self, name: str) -> RunDir:
        return RunDir(self.run_dir(name))

    def await_step(self, name: str, step: int, process: HostProcess) -> None:
        """Until the run has done that step; fails when its process ends before."""

        def done() -> bool:
            assert process.status is None, process.output
            directory = self.run_dir(name)
            return directory.is_dir() and any(row["step"] >= step for row in self.read(name).read_metrics())

        wait_for(done, f"step {step} of {name}", 120)

    def losses(self, name: str) -> list[float]:
        """By step; of a step that was computed again the last."""
        rows = {row["step"]: row["loss"] for row in self.read(name).read_metrics()}
        return [rows[step] for step in sorted(rows)]

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        return [to_json(event) for event in self.read(name).read_events() if event.kind == kind]


def job_values(lab: Lab, **changes: Any) -> dict[str, Any]:
    """qwen3_moe of some thousand parameters with 8 experts, 4 lanes, 8 steps, a text in the shared folder."""
    text = lab.shared / "corpus.txt"
    if not text.exists():
        text.write_text("the brackets join unlike timbers without nails\n" * 2000)
    values: dict[str, Any] = {
        "job": "lab",
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe") | {"num_experts": 8}},
        "data": {"text": str(text), "sequence_length": 16},
        "batch": {"lanes": 4, "microbatches": 1, "microbatch_size": 1},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "steps": 8,
        "seed": 7,
        "checkpoint": {"every": 4},
        "islands": PINNED,
    }
    return values | changes


@contextmanager
def pool_cluster() -> Iterator[Cluster]:
    """Ray's head on node0; node1 and node2 are alike (`pool=b`), node3 is in the network and runs none."""
    with Lab(num_hosts=4) as lab:
        made = Cluster(lab, lab.hosts[0].start_ray(num_cpus=2))
        for host in lab.hosts[1:3]:
            rejoin(made, host)
        yield made


def rejoin(cluster: Cluster, host: Host) -> None:
    """The host is one of the pool, for the first time or again."""
    host.start_ray(cluster.ray, num_cpus=2, labels={"pool": "b"})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Torn down whatever the tests do. A test that breaks something mends it (`lab.heal()`, `start_ray`)."""
    with Lab(num_hosts=4) as lab:
        yield Cluster(lab, lab.start_ray(lab.hosts[:3]))


@pytest.fixture
def fresh_runs(cluster: Cluster) -> None:
    """No run directories but this test's."""
    shutil.rmtree(cluster.lab.shared / "runs", ignore_errors=True)
