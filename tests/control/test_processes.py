"""Small facts about processes: how they end, and out-of-memory counters of both kinds of control groups."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dougong.control import processes
from tests.launcher.toyrun import ROOT, wait_for


def test_a_pidfd_tells_the_end_of_a_child() -> None:
    child = subprocess.Popen(["sleep", "100"])
    fd = processes.open_pidfd(child.pid)
    assert fd is not None
    assert select.select([fd], [], [], 0)[0] == []
    child.kill()
    assert select.select([fd], [], [], 10)[0] == [fd]
    os.close(fd)
    child.wait()
    assert processes.open_pidfd(child.pid) is None


def test_a_group_is_killed_whole_and_a_dead_group_is_no_error() -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    processes.kill_group(leader.pid)
    assert leader.wait(10) == -signal.SIGKILL
    wait_for(lambda: not processes.process_exists(member), "the member ends", 10)
    processes.kill_group(leader.pid)


def test_a_process_dies_with_its_parent() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "from dougong.control.processes import die_with_parent\n"
        "pid = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    die_with_parent(pid)\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(100)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert processes.process_exists(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not processes.process_exists(child), "the child ends", 10)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (250, "signal 250")])
def test_signals_have_names(number: int, name: str) -> None:
    assert processes.signal_name(number) == name


def test_an_address_belongs_to_an_interface() -> None:
    assert processes.interface_of("127.0.0.1") == "lo"
    assert processes.interface_of("203.0.113.77") is None


@pytest.mark.parametrize(
    ("groups", "file", "text", "expected"),
    [
        ("0::/job\n", "job/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("0::/job\n", "memory.events", "oom_kill 5\n", 5),
        ("4:memory:/a/b\n0::/\n", "memory/a/b/memory.oom_control", "under_oom 0\noom_kill 7\n", 7),
        ("4:memory:/a/b\n", "memory/memory.oom_control", "oom_kill_disable 0\noom_kill 1\n", 1),
        ("4:cpu:/a/b\n", "cpu/a/b/memory.oom_control", "oom_kill 1\n", None),
        ("0::/job\n", "elsewhere", "oom_kill 1\n", None),
    ],
)
def test_oom_kills_are_counted(tmp_path: Path, groups: str, file: str, text: str, expected: int | None) -> None:
    (tmp_path / "cgroup").write_text(groups)
    path = tmp_path / "fs" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert processes.count_oom_kills(tmp_path / "fs", tmp_path / "cgroup") == expected


def test_what_the_kernel_killed_long_before_a_death_is_not_its_cause() -> None:
    killed = [3]
    watch = processes.OomWatch(within_s=0.2, count=lambda: killed[0])
    assert not watch.explains_a_death(), "those before it began"
    killed[0] += 1
    watch.look()
    time.sleep(0.25)
    assert not watch.explains_a_death()


def test_of_several_deaths_as_many_are_the_kernel_s_as_it_has_killed() -> None:
    killed = [0]
    watch = processes.OomWatch(within_s=10.0, count=lambda: killed[0])
    killed[0] += 2
    watch.look()
    assert [watch.explains_a_death() for _ in range(3)] == [True, True, False], "the count rises before they are gone"


def test_where_nobody_counts_nothing_is_known() -> None:
    assert not processes.OomWatch(10.0, count=lambda: None).explains_a_death()


@pytest.mark.parametrize(
    ("groups", "file", "text", "expected"),
    [
        ("0::/job\n", "job/memory.max", "1500000\n", 1_500_000),
        ("0::/job\n", "memory.max", "1500000\n", 1_500_000),
        ("4:memory:/a\n0::/\n", "memory/a/memory.limit_in_bytes", "1500000\n", 1_500_000),
        ("0::/job\n", "job/memory.max", "max\n", psutil.virtual_memory().total),
        ("4:memory:/a\n", "memory/a/memory.limit_in_bytes", f"{2**63 - 4096}\n", psutil.virtual_memory().total),
    ],
)
def test_memory_is_the_groups_or_the_machines(tmp_path: Path, groups: str, file: str, text: str, expected: int) -> None:
    (tmp_path / "cgroup").write_text(groups)
    path = tmp_path / "fs" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert processes.memory_bytes(tmp_path / "fs", tmp_path / "cgroup") == expected


def write_group(tmp_path: Path, **files: str) -> tuple[Path, Path]:
    """A control group of version 2 with these files (`memory_max`: memory.max): its tree, and this process's line."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "cgroup").write_text("0::/job\n")
    folder = tmp_path / "fs" / "job"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return tmp_path / "fs", tmp_path / "cgroup"


def test_free_memory_is_what_the_group_may_still_take(tmp_path: Path) -> None:
    stat = "anon 500\ninactive_file 300\n"
    group = write_group(tmp_path, memory_max="1000", memory_current="900", memory_stat=stat)
    assert processes.free_memory_bytes(*group) == 400  # files that nobody uses are given up
    assert processes.free_memory_bytes(tmp_path, tmp_path / "none") > 0


def test_what_the_whole_machine_uses_does_not_count_against_a_group(tmp_path: Path) -> None:
    """Version 1 says both, as under Slurm: the group's and, at the top of the tree, everybody's."""
    (tmp_path / "cgroup").write_text("4:memory:/job\n")
    for folder, limit, used in ((tmp_path / "fs/memory", 2**63 - 4096, 2**40), (tmp_path / "fs/memory/job", 1000, 900)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("cache 400\ninactive_file 300\n")
    assert processes.free_memory_bytes(tmp_path / "fs", tmp_path / "cgroup") == 400


def test_cpus_are_those_of_the_group_s_quota(tmp_path: Path) -> None:
    assert processes.usable_cpus(*write_group(tmp_path / "a", cpu_max="100000 100000")) == 1
    assert processes.usable_cpus(*write_group(tmp_path / "b", cpu_max="max 100000")) == len(os.sched_getaffinity(0))
    (tmp_path / "old" / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "old" / "cpu" / "job" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "old" / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cgroup").write_text("4:cpu,cpuacct:/job\n")
    assert processes.usable_cpus(tmp_path / "old", tmp_path / "cgroup") == 1
    (tmp_path / "old" / "cpu" / "job" / "cpu.cfs_quota_us").write_text("-1\n")
    assert processes.usable_cpus(tmp_path / "old", tmp_path / "cgroup") == len(os.sched_getaffinity(0))


def test_processes_are_those_that_the_group_may_still_begin(tmp_path: Path) -> None:
    assert processes.free_processes(*write_group(tmp_path / "a", pids_max="100", pids_current="30")) == 70
    assert processes.free_processes(*write_group(tmp_path / "b", pids_max="max", pids_current="30")) is None


def test_a_machine_without_control_groups_has_no_count(tmp_path: Path) -> None:
    assert processes.count_oom_kills(tmp_path, tmp_path / "cgroup") is None


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen(["sleep", "100"])
    assert processes.process_exists(child.pid)
    child.kill()
    wait_for(lambda: not processes.process_exists(child.pid), "it has ended, though nobody has reaped it", 10)
    child.wait()
    assert not processes.process_exists(child.pid)


@pytest.mark.parametrize("title", ["dougong worker east/0", "dougong " + 400 * "x"])
def test_a_process_has_its_title_in_place_of_its_command_line(title: str) -> None:
    """As long as there is room for it; its environment stays."""
    code = f"from dougong.control.processes import title_process; title_process({title!r}); print(); input()"
    words = [sys.executable, "-c", code]
    environment = {**os.environ, "MARK_OF_TITLE": "here"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert shown.startswith(title.encode()[:100]) and len(shown.rstrip(b"\0")) <= len(title)
    assert b"-c" not in shown and b"MARK" not in shown
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == title[:15].strip()
    assert b"MARK_OF_TITLE=here" in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    process.communicate(b"\n")
    assert process.returncode == 0
