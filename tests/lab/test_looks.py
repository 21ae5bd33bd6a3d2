"""What a second machine may have otherwise: other source or versions, another run directory or none, other data, broken
libraries. Each is refused with the machine and the cause; what the refusal advises is then done, and the run
succeeds. What may differ (paths, home, clock) does not matter.

node1's Ray runs from another virtual environment, with another copy of dougong, no home, and a clock two hours behind.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dougong
import pytest
from dougong.testing import Done, Host, Lab
from tests.lab.conftest import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

TWO_HOURS_BEHIND = """
import time
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() - 7200
time.time_ns = lambda: _now_ns() - 7200 * 10**9
"""


@dataclass
class Odd(Cluster):
    """A cluster of node0 and node1. `copy`: the folder from which node1 imports before any other."""

    copy: Path

    @property
    def head(self) -> Host:
        return self.lab.hosts[0]

    @property
    def other(self) -> Host:
        return self.lab.hosts[1]

    def resume(self, name: str, *more: str) -> Done:
        words = ["dougong", "resume", str(self.run_dir(name)), "--address", self.address, *more]
        return self.head.run(words, timeout_s=120)

    def refused(self, done: Done, *texts: str) -> str:
        """The output of a refusal that holds these."""
        assert done.status != 0, done.output
        words = " ".join(done.output.split())
        for text in texts:
            assert text in words, done.output
        print(f"refused after {done.seconds:.1f} s")
        return words

    def finished(self, done: Done) -> str:
        assert done.status == 0, done.output
        return " ".join(done.output.split())


def other_venv(lab: Lab, host: Host) -> Path:
    """This Python's virtual environment under another path on that host, with a program `ray` that uses it."""
    venv, programs = lab.folder / "elsewhere", lab.folder / "programs"
    venv.mkdir()
    programs.mkdir()
    host.place.mounts(["mount", "--bind", sys.prefix, str(venv)])
    ray = programs / "ray"
    ray.write_text(f'#!/bin/sh\nexec {venv}/bin/python -m ray.scripts.scripts "$@"\n')
    ray.chmod(0o755)
    return programs


@pytest.fixture(scope="module")
def odd() -> Iterator[Odd]:
    with Lab(num_hosts=2) as lab:
        copy = lab.folder / "copy"
        package = Path(dougong.__file__).parent
        shutil.copytree(package, copy / "dougong", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "sitecustomize.py").write_text(TWO_HOURS_BEHIND)
        head, other = lab.hosts
        path = f"{other_venv(lab, other)}:{lab.env['PATH']}"
        ray = head.start_ray(num_cpus=4)
        env = {"PATH": path, "PYTHONPATH": str(copy), "HOME": "/nonexistent"}
        other.start_ray(ray, num_cpus=4, env=env)
        yield Odd(lab, ray, copy)


def follow_copies(text: str) -> int:
    """Do what a refusal advises for other source: bring the folders to one state. Returns how many commands it were."""
    commands = re.findall(r"on (\S+): rsync -a --delete --exclude=__pycache__ (?:(\S+?):)?(/\S+)/ (/\S+)/", text)
    for _, _, source, target in commands:
        shutil.rmtree(target)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return len(commands)


@pytest.mark.slow
def test_other_source_is_refused_and_other_places_are_not(odd: Odd) -> None:
    """The learning rate times 1.01 on one node, as after a forgotten `git pull`."""
    rule = odd.copy / "dougong" / "training" / "optimizers" / "adamw.py"
    rule.write_text(rule.read_text() + "\nLR_TIMES = 1.01\n")
    folder = "dougong/training/optimizers"
    words = odd.refused(
        odd.run(odd.head, "source"),
        f"other source under the same version on node1 (west): {folder}; it may compute other bits",
        f"on node1: rsync -a --delete --exclude=__pycache__ node0:{Path(dougong.__file__).parent}/ {odd.copy}/dougong/",
    )
    assert follow_copies(words) == 1
    told = odd.finished(odd.run(odd.head, "source"))
    assert "the clock of node1 is 2:00:00 behind that of this machine (dougong run)" in told
    assert len(odd.losses("source")) == 8
    assert not list(odd.run_dir("source").rglob(".proof.*"))


@pytest.mark.slow
def test_a_source_that_changes_before_a_resume_is_refused(odd: Odd) -> None:
    odd.finished(odd.run(odd.head, "again", steps=4))
    rule = odd.copy / "dougong" / "ops" / "topk.py"
    before = rule.read_text()
    rule.write_text(before + "\n")
    words = odd.refused(odd.resume("again", "-o", "steps=8"), "on node1 (west): dougong/ops; it may compute")
    assert follow_copies(words) == 1
    odd.finished(odd.resume("again", "-o", "steps=8"))


@pytest.mark.slow
def test_another_version_is_refused(odd: Odd) -> None:
    metadata = odd.copy / "dougong-0.0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dougong\nVersion: 0.0.1\n")
    try:
        odd.refused(odd.run(odd.head, "version"), "the nodes differ in dougong;", "node1 (west)", "0.0.1")
    finally:
        shutil.rmtree(metadata)
    odd.finished(odd.run(odd.head, "version"))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["torch", "dougong"])
def test_a_library_that_cannot_be_imported_is_told_with_its_node(odd: Odd, broken: str) -> None:
    package = odd.copy / broken
    aside = odd.copy / "aside"
    if package.exists():
        package.rename(aside)
    package.mkdir()
    (package / "__init__.py").write_text(f"raise ImportError('libodd.so: no such file, says {broken}')\n")
    try:
        words = odd.refused(odd.run(odd.head, broken), "west", "node1", f"libodd.so: no such file, says {broken}")
        assert "agent east" not in words
    finally:
        shutil.rmtree(package)
        if aside.exists():
            aside.rename(package)
    odd.finished(odd.run(odd.head, broken))


@pytest.mark.slow
def test_a_run_directory_that_is_not_there_is_refused(odd: Odd) -> None:
    runs = odd.run_dir("absent").parent
    runs.mkdir(exist_ok=True)
    odd.other.own(runs)
    try:
        odd.refused(
            odd.run(odd.head, "absent"),
            f"the run directory {odd.run_dir('absent')} is not to be seen on node1; every node must reach it",
        )
    finally:
        odd.other.give_back(runs)
    odd.finished(odd.run(odd.head, "absent"))


@pytest.mark.slow
@pytest.mark.parametrize("only_job", [False, True], ids=["stale copy", "only job.yaml"])
def test_another_directory_of_the_same_name_is_refused_at_a_resume(odd: Odd, only_job: bool) -> None:
    name = f"copy-{only_job}"
    run = odd.run_dir(name)
    odd.finished(odd.run(odd.head, name, steps=4))
    copied = odd.other.own(run, copied=not only_job)
    if only_job:
        shutil.copy(run / "job.yaml", copied)
    try:
        odd.refused(
            odd.resume(name, "-o", "steps=8"),
            f"node1 has another directory at {run}",
            "what this machine has just written is not in it; mount there what this machine has at that path",
        )
    finally:
        odd.other.give_back(run)
    odd.finished(odd.resume(name, "-o", "steps=8"))
    assert len(odd.losses(name)) == 8
    assert not list(copied.rglob(".proof.*"))


@pytest.mark.slow
def test_a_new_run_whose_job_was_copied_is_refused(odd: Odd) -> None:
    run = odd.run_dir("copied")
    run.mkdir(parents=True)
    copied = odd.other.own(run)
    (copied / "job.yaml").write_text("job: lab\n")
    try:
        odd.refused(odd.run(odd.head, "copied"), f"node1 has another directory at {run}")
    finally:
        odd.other.give_back(run)
    odd.finished(odd.run(odd.head, "copied"))


@pytest.mark.slow
def test_a_run_directory_that_cannot_be_written_is_refused(odd: Odd) -> None:
    run = odd.run_dir("read-only")
    run.mkdir(parents=True)
    odd.other.make_read_only(run)
    try:
        odd.refused(
            odd.run(odd.head, "read-only"),
            f"{run} cannot be written on node1: Read-only file system; mount it there for writing",
        )
    finally:
        odd.other.give_back(run)
    odd.finished(odd.run(odd.head, "read-only"))


@pytest.mark.slow
def test_a_layer_over_the_run_directory_is_refused(odd: Odd) -> None:
    """node1 reads what node0 writes, and writes where nobody else looks."""
    run, layer = odd.run_dir("layer"), odd.lab.folder / "layer"
    for folder in (run, layer / "upper", layer / "work"):
        folder.mkdir(parents=True)
    options = f"lowerdir={run},upperdir={layer / 'upper'},workdir={layer / 'work'}"
    odd.other.place.mounts(["mount", "-t", "tmpfs", "tmpfs", str(layer)])
    for folder in (layer / "upper", layer / "work"):
        odd.other.check(["mkdir", str(folder)])
    odd.other.place.mounts(["mount", "-t", "overlay", "overlay", "-o", options, str(run)])
    try:
        odd.refused(odd.run(odd.head, "layer"), "node1", str(run))
    finally:
        odd.other.place.mounts(["umount", "--lazy", str(run)])
        odd.other.place.mounts(["umount", "--lazy", str(layer)])
    odd.finished(odd.run(odd.head, "layer"))


@pytest.mark.slow
def test_data_that_is_missing_or_other_on_a_node_names_it(odd: Odd) -> None:
    folder = odd.lab.shared / "data"
    folder.mkdir()
    text = folder / "corpus.txt"
    text.write_text("the brackets join unlike timbers without nails\n" * 2000)
    data = {"text": str(text), "sequence_length": 16}
    own = odd.other.own(folder)
    try:
        odd.refused(odd.run(odd.head, "data", data=data), f"{text} is here and not on node1: every node reads")
        (own / "corpus.txt").write_text("the brackets join unlike timbers with nails\n" * 2000)
        words = odd.refused(odd.run(odd.head, "data", data=data), "west/0 on node1", "than east/0 on node0")
        assert "west/1 on node1 read other tokens" in words
    finally:
        odd.other.give_back(folder)
    odd.finished(odd.run(odd.head, "data", data=data))


@pytest.mark.slow
def test_a_device_that_a_node_lacks_names_the_node(odd: Odd) -> None:
    """A node that says it has an NPU: Ray believes it."""
    odd.other.stop_ray()
    odd.other.start_ray(odd.ray, num_cpus=4, resources={"NPU": 2})
    islands = [{"name": "west", "accelerator": "npu", "workers": 1, "node": "10.0.0.2"}]
    words = odd.refused(odd.run(odd.head, "npu", islands=islands), "node1")
    assert "this machine" not in words.rpartition("accelerator npu")[2]
