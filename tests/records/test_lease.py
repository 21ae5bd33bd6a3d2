"""One controller: of all who ask for a number one has it; a lease runs out by the looker's own clock."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.control.processes import process_start
from dougong.deadlines import DEADLINES
from dougong.errors import AliveError, StorageError
from dougong.records.lease import (
    LEASES,
    Holder,
    has_moved,
    newest_fence,
    see_lease,
    see_newest,
    take_lease,
    take_number,
)

QUICK = dataclasses.replace(
    DEADLINES, lease_s=0.5, lease_renew_s=0.02, status_fresh_s=0.2, poll_every_s=0.02, exit_status_s=5
)
MOST, PROCESSES = 200, 6

RACE = """
import sys
from pathlib import Path
from dougong.records.lease import Holder, take_number
folder, me = Path(sys.argv[1]), Holder.here(0)
print("ready", flush=True)
sys.stdin.readline()
won = [n for n in range(1, int(sys.argv[2]) + 1) if take_number(folder, me.model_copy(update={"fence": n}))]
print(*won)
"""

HOLD = """
import sys, time
from pathlib import Path
import dataclasses
from dougong.deadlines import DEADLINES
from dougong.records.lease import take_lease
lease = take_lease(Path(sys.argv[1]), dataclasses.replace(DEADLINES, lease_renew_s=0.02))
lease.when_lost(lambda who: print("lost to", who, flush=True))
print("held", lease.fence, flush=True)
time.sleep(60)
"""


def spawn(script: str, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script, *words], stdin=pipe, stdout=pipe, text=True)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_six_processes_that_ask_for_200_numbers_each_number_has_one(tmp_path: Path) -> None:
    racers = [spawn(RACE, str(tmp_path), str(MOST)) for _ in range(PROCESSES)]
    assert [heard(racer) for racer in racers] == ["ready"] * PROCESSES
    said = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        said += racer.communicate(timeout=60)[0].split()
    assert sorted(map(int, said)) == list(range(1, MOST + 1))
    assert sorted(map(int, os.listdir(tmp_path))) == list(range(1, MOST + 1))  # nothing else is left there


def holder(fence: int = 1, **changes: object) -> Holder:
    return Holder.here(fence).model_copy(update=changes)


@pytest.mark.parametrize("error", [FileExistsError(17, "File exists"), OSError(5, "Input/output error")])
def test_a_link_whose_reply_was_lost_has_been_made(tmp_path: Path, error: OSError) -> None:
    def link(own: Path, place: Path) -> None:
        os.link(own, place)
        raise error

    assert take_number(tmp_path, holder(), link)
    assert see_lease_in(tmp_path) == holder()
    assert not take_number(tmp_path, holder(pid=7), link)  # os.link itself refuses


def see_lease_in(folder: Path) -> Holder:
    return Holder.model_validate_json((folder / "1").read_bytes())


def test_a_link_that_could_not_be_made_is_no_loss_but_an_error(tmp_path: Path) -> None:
    def link(own: Path, place: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # a file system without links

    with pytest.raises(PermissionError):
        take_number(tmp_path, holder(), link)
    assert not os.listdir(tmp_path)


def test_one_at_a_time_and_each_has_a_higher_number(tmp_path: Path) -> None:
    assert (newest_fence(tmp_path), see_newest(tmp_path)) == (0, None)
    with take_lease(tmp_path, QUICK) as lease:
        assert lease.fence == newest_fence(tmp_path) == 1
        me = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(AliveError, match=rf"is alive \(controller {me}\); `dougong stop") as caught:
            take_lease(tmp_path, QUICK)
        assert caught.value.exit_status == 3
    seen = see_newest(tmp_path)
    assert seen is not None and seen.is_past and str(seen) == me
    with take_lease(tmp_path, QUICK) as lease:
        assert lease.fence == 2


def test_one_whose_process_is_gone_need_not_run_out(tmp_path: Path) -> None:
    process = spawn(HOLD, str(tmp_path))
    try:
        assert heard(process) == "held 1"
        seen = see_newest(tmp_path)
        assert seen is not None and not seen.is_past
        assert has_moved(tmp_path, seen, 20, 0.01)
    finally:
        process.kill()
        process.communicate()
    with take_lease(tmp_path, dataclasses.replace(QUICK, lease_s=300)) as lease:
        assert lease.fence == 2


def test_one_that_is_stopped_runs_out_and_hears_of_its_successor_when_it_goes_on(tmp_path: Path) -> None:
    process, told = spawn(HOLD, str(tmp_path)), []
    try:
        assert heard(process) == "held 1"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with take_lease(tmp_path, QUICK, tell=told.append) as lease:
            os.kill(process.pid, signal.SIGCONT)
            me = f"process {os.getpid()} on {socket.gethostname()}"
            assert heard(process) == f"lost to controller 2 ({me})"
            assert lease.fence == 2
        assert len(told) == 1 and f"(process {process.pid} on" in told[0]
        assert "does not renew its lease; it runs out in 0.3 s" in told[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("takes_over", [False, True])
def test_the_lease_of_another_machine_runs_out_or_is_taken_by_somebodys_word(tmp_path: Path, takes_over: bool) -> None:
    (tmp_path / LEASES).mkdir()
    assert take_number(tmp_path / LEASES, holder(machine="node9"))
    told: list[str] = []
    with take_lease(tmp_path, QUICK, takes_over, told.append) as lease:
        assert lease.fence == 2
    assert bool(told) is not takes_over


def test_a_number_that_its_process_has_left_to_another_is_nobodys(tmp_path: Path) -> None:
    mine = holder()
    assert not mine.is_past
    assert holder(started=mine.started - 1).is_past  # our number, of a process before us
    assert holder(ended=True, machine="node9").is_past
    assert not holder(machine="node9", pid=1 << 30).is_past
    assert not holder(table="another boot", pid=1 << 30).is_past
    assert process_start(1 << 30) is None


def test_a_file_that_makes_no_sense_is_an_unknown_process_and_runs_out(tmp_path: Path) -> None:
    (tmp_path / LEASES).mkdir()
    (tmp_path / LEASES / "4").write_text("not JSON")
    (tmp_path / LEASES / "5.address").write_text("no number")
    seen = see_lease(tmp_path, 4)
    assert not seen.is_past and str(seen) == "an unknown process"
    with take_lease(tmp_path, QUICK) as lease:
        assert lease.fence == 5


def test_where_nothing_can_be_written_there_is_no_lease(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"lease: cannot be written: No such file or directory"):
        take_lease(tmp_path / "gone")
