"""`dougong doctor`: its words, its exit status, `run --doctor`, and the commands of its document."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.cli.doctor.command import checkpoints_bytes
from dougong.cli.main import main
from dougong.doctor.examine import judge
from dougong.doctor.record import FILE, DoctorReport, Symptom
from dougong.job.load import load_job
from dougong.launcher.backends.ray_choice import Surroundings
from tests.doctor.made import sound
from tests.storage import REFUSED, fill, read_only, small
from tests.test_readme import SHORT

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "doctor.md"


def dougong(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=240)


def test_this_machine_is_sound_for_people_and_for_programs(tmp_path: Path) -> None:
    done = dougong(tmp_path, "doctor", "--quick")
    assert done.returncode == 0 and "sound, by" in done.stdout, done.stdout + done.stderr
    done = dougong(tmp_path, "doctor", "--quick", "--json")
    assert done.returncode == 0 and DoctorReport.model_validate_json(done.stdout).is_sound
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.yaml"], "none.yaml"),
        (["-o", "steps=2"], "name the file too"),
        (["--address", "nonsense"], "not HOST:PORT"),
        (["--quick", "--out", "file/x"], "name another place"),
    ],
)
def test_bad_input_has_a_status_of_its_own(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "file").write_text("")
    done = dougong(tmp_path, "doctor", *words)
    assert done.returncode == 2 and said in done.stderr, done.stdout + done.stderr


def test_ports_that_cannot_be_read_are_told_without_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_PORTS", "abc")
    done = dougong(tmp_path, "doctor", "--quick")
    assert done.returncode == 2 and "DOUGONG_PORTS=abc: must be FIRST-LAST" in done.stderr, done.stdout + done.stderr


def only_disk(place: Path, *words: str) -> tuple[Symptom, ...]:
    """What the check of the disk has found wrong with `place`: no other check has."""
    done = dougong(ROOT, "doctor", *words, "--json", "--run-dir", str(place))
    assert done.returncode == 1, done.stdout + done.stderr
    found = DoctorReport.model_validate_json(done.stdout)
    assert [check.name for check in found.failed] == ["disk"], found.failed
    return found.failed[0].symptoms


NOT_QUICK = pytest.param((), marks=pytest.mark.slow, id="full")
HALVES = pytest.mark.parametrize("words", [("--quick",), NOT_QUICK])


@HALVES
def test_a_place_that_cannot_be_written_is_the_disk_s_finding(tmp_path: Path, words: tuple[str, ...]) -> None:
    with read_only(tmp_path):
        refused = only_disk(tmp_path / "runs", *words)[-1]
    assert re.search(rf"{tmp_path} cannot be written.*: {REFUSED}$", refused.words)
    remedy = r"(mount it there for writing|let that user read and write there.*), or choose another place by --run-dir"
    assert re.fullmatch(remedy, refused.remedy)


@HALVES
def test_a_file_is_no_place_for_runs(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text("job: tiny")
    (symptom,) = only_disk(file, *words)
    assert symptom.words.endswith(f"{file} is not a folder")
    assert symptom.remedy == "move it away, or choose another place by --run-dir"


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of a given size takes root")
@HALVES
def test_no_room_is_the_disk_s_finding(tmp_path: Path, words: tuple[str, ...]) -> None:
    with small(tmp_path, "1m"):
        fill(tmp_path / "filling")
        (symptom,) = only_disk(tmp_path, *words)
    assert "has 0 B free of 1.0 MiB, and a run needs 1.0 GiB" in symptom.words
    assert symptom.remedy == "make room, or choose another place by --run-dir"


def test_a_cluster_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = dougong(tmp_path, "doctor", "--quick", "--address", address)
    assert done.returncode == 1 and "nobody answers" in done.stdout, done.stdout + done.stderr


def test_a_cluster_that_nobody_finds_is_the_same_finding_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # On this machine another test may have a Ray.
    monkeypatch.setattr("dougong.cli.doctor.command.surroundings", lambda run: Surroundings(nodes=tuple, run=run))
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", "--quick", "--json", "--address", "auto"])
    found = DoctorReport.model_validate_json(capsys.readouterr().out)
    assert exit_.value.code == 1 and [check.name for check in found.failed] == ["cluster"]
    (symptom,) = found.failed[0].symptoms
    assert symptom.words.startswith("--address auto: no Ray runs on this machine")
    assert "ray start --head" in symptom.remedy


def test_a_run_begins_only_where_the_quick_half_is_sound(tmp_path: Path) -> None:
    job = [str(ROOT / "examples" / "quickstart.yaml"), "-o", "ports=23450-23455", "--no-ray"]
    done = dougong(tmp_path, "run", *job, "--run-dir", "first", "--doctor")
    assert done.returncode == 1 and "nothing was started" in done.stderr, done.stdout + done.stderr
    assert "ports free of 23450-23455\n  -> widen `ports` of the job: a run needs up to 13 there" in done.stderr
    assert not (tmp_path / "first").exists()


def test_checkpoints_are_reckoned_from_the_model() -> None:
    job = load_job(ROOT / "examples" / "quickstart.yaml", ["checkpoint.keep=2"]).job
    # 3,417,472 parameters (`dougong plan`), each with its master and two moments, three times.
    assert checkpoints_bytes(job) == 3 * 12 * 3_417_472


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


IN_THE_LAB = "--address"
"""A word of commands that tests/lab/test_doctor.py runs."""
AT_LENGTH = "--out"
"""A word of those of the full half, which is run each time by tests/doctor/ask/test_observe.py."""


def do(command: str, place: Path) -> None:
    words = shlex.split(command)
    assert words[0] == "dougong", command
    short = [*SHORT, "-o", "drill=[]"] if words[1] == "run" else []
    done = dougong(place, *words[1:], *short)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.timeout(400)
def test_the_document_s_commands_do_what_they_say(place: Path) -> None:
    short = [command for command in commands() if not {IN_THE_LAB, AT_LENGTH} & set(shlex.split(command))]
    assert len(short) >= 2
    for command in short:
        do(command, place)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_document_s_full_half_does_what_it_says(place: Path) -> None:
    (command,) = (command for command in commands() if AT_LENGTH in shlex.split(command))
    do(command, place)
    assert DoctorReport.model_validate_json((place / "doctor" / FILE).read_text()).is_sound


def named_checks() -> set[str]:
    """Those of an examination, and those that any module of the doctor makes by a name of their own."""
    names = {check.name for check in judge(sound())}
    for file in (ROOT / "dougong" / "doctor").rglob("*.py"):
        names |= set(re.findall(r'\bcheck_of\(\s*"([^"]+)"', file.read_text()))
    return names


def test_the_document_s_table_has_every_check_and_no_other() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows[0] == "check" and len(rows) == len(set(rows))
    assert set(rows[1:]) == named_checks() >= {"cluster", "matmul"}
