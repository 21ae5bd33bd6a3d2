"""A lab comes up whole, is alone, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from dougong.testing import Host, Lab, LabError
from tests.launcher.toyrun import ROOT, wait_for

pytestmark = pytest.mark.lab


def test_hosts_are_machines_of_their_own_with_one_folder_in_common(lab: Lab) -> None:
    one, two = lab.hosts
    assert [host.check(["hostname"]).strip() for host in lab.hosts] == ["node0", "node1"]
    assert [host.check(["cat", "/etc/hostname"]).strip() for host in lab.hosts] == ["node0", "node1"]
    looking = "ps -e -o args=; ls /tmp; ls ~; ls /dev/shm; cat /etc/hosts"
    one.check(["sh", "-c", "touch /tmp/mine ~/mine /dev/shm/mine"])
    (lab.shared / "ours").touch()
    seen = two.check(["sh", "-c", looking])
    assert "mine" not in seen and "sleep infinity" in seen and "pytest" not in seen
    assert "10.0.0.1 node0\n10.0.0.2 node1\n" in seen
    assert one.check(["sh", "-c", "ls /tmp ~ /dev/shm"]).count("mine") == 3
    assert [host.check(["ls", str(lab.shared)]) for host in lab.hosts] == ["ours\n", "ours\n"]


def test_the_program_is_the_one_that_runs_the_lab(lab: Lab) -> None:
    code = "import dougong, sys; print(dougong.__file__); print(sys.prefix)"
    said = lab.hosts[0].check(["python", "-c", code]).split()
    assert said == [str(ROOT / "dougong" / "__init__.py"), sys.prefix]
    assert "usage: dougong" in lab.hosts[0].check(["dougong", "--help"]).lower()


def test_commands_find_a_small_environment_that_can_be_changed(lab: Lab) -> None:
    host = lab.hosts[0]
    names = {line.partition("=")[0] for line in host.check(["env"]).splitlines()}
    assert {"PATH", "HOME", "LANG", "OMP_NUM_THREADS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= names
    assert names <= {*lab.env, "PWD", "OLDPWD", "_", "SHLVL"}
    changed = host.check(["env"], env={"RAY_AUTH_TOKEN": None, "NEW": "yes"}).splitlines()
    assert "NEW=yes" in changed and not any(line.startswith("RAY_AUTH_TOKEN") for line in changed)


def test_a_host_that_comes_later_is_known_by_name() -> None:
    with Lab(num_hosts=1) as lab:
        (late,) = lab.add_hosts(1)
        assert late.name == "node1"
        assert lab.hosts[0].check(["getent", "hosts", "node1"]).split() == ["10.0.0.2", "node1"]


def test_two_labs_do_not_meet_and_the_machine_s_network_sees_neither() -> None:
    before = set(psutil.net_if_addrs())
    with Lab(num_hosts=1) as one, Lab(num_hosts=1) as two:
        assert one.folder != two.folder
        assert one.hosts[0].address == two.hosts[0].address
        assert set(psutil.net_if_addrs()) == before
        one.close()
        assert two.hosts[0].check(["hostname"]) == "node0\n"


def living(folder: Path) -> list[str]:
    """Processes that have the lab's folder on their command lines or in their environments."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found


DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "200"])
"""


def test_a_lab_that_is_closed_leaves_nothing() -> None:
    with Lab(num_hosts=2) as lab:
        lab.hosts[0].start(["sleep", "100"])
        lab.hosts[1].check(["python", "-c", DAEMON])
        processes = lab.hosts[1].processes
        wait_for(lambda: "sleep 200" in processes().values(), "the daemon, which nobody waits for", 20)
        inside = [pid for host in lab.hosts for pid in host.processes()]
        assert len(living(lab.folder)) >= 5
    assert not living(lab.folder)
    assert not any(map(psutil.pid_exists, inside))
    assert not lab.folder.exists()


MAKER = """
import time
from dougong.testing import Lab
lab = Lab(num_hosts=2)
lab.hosts[1].start(["sleep", "300"])
print(lab.folder, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lab_whose_process_is_killed_leaves_nothing(number: signal.Signals) -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert maker.stdout is not None
    folder = Path(maker.stdout.readline().strip())
    wait_for(lambda: any("sleep 300" in words for words in living(folder)), "the lab's process", 20)
    maker.send_signal(number)
    assert maker.wait(10) == -number
    wait_for(lambda: not living(folder) and not folder.exists(), "the lab's end", 20)


def test_a_lab_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Unlucky(Lab):
        def add_hosts(self, number: int) -> list[Host]:
            seen.append((self.folder, *super().add_hosts(number)))
            raise LabError("no more room")

    seen: list[tuple[Path, Host]] = []
    with pytest.raises(LabError, match="no more room"):
        Unlucky(num_hosts=1)
    assert seen and not living(seen[0][0])
    assert not list(tmp_path.iterdir())
