"""Every command of the README is run as it stands, in its order; training is only made shorter, and what takes minutes
is run by `make test-all`."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dougong.cli.main import COMMANDS, load_command
from dougong.deadlines import DEADLINES
from dougong.job.drills.vocabulary import FAULTS, NamedFault, known_fault
from dougong.job.schema import Island, Job
from tests.jobs import make_job

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ("-o", "steps=4", "-o", "schedule.warmup_steps=1", "-o", "data.validation.every=2", "-o", "checkpoint.every=2")
SHORTENED = {"steps=70": "steps=6"}
WITHOUT_RAY = ("runs/wider", "resume")
"""Words of commands that take this machine's agents instead: what Ray is for is seen by the first run."""
AT_LENGTH = ("calibrate",)
"""Run by `make test-all`. Its jobs and its rates have tests in tests/tools/test_calibrate.py, and the runs on this
machine that it makes are those of `prove`, which is run each time."""
FEWER = {"prove": ("--layouts", "2")}
"""The option of a command whose number is made smaller."""
RUNS_ELSEWHERE = {
    "make quickstart": "tests/test_quickstart.py runs its file; CI runs make",
    "make test": "this is it",
    "ray start": "tests/launcher/backends/test_ray_cluster.py starts a cluster of two nodes",
    "export RAY_AUTH_MODE": "as above",
    "dougong run job.yaml --address": "as above",
    "dougong doctor job.yaml --address": "tests/lab/test_doctor.py examines three hosts",
}


def blocks(language: str) -> list[str]:
    """The contents of the README's fenced blocks in a language; "" for those that name none."""
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in fenced if named == language]


def commands() -> list[str]:
    return [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


def shorter(command: str) -> list[str]:
    """The command's words for this interpreter; a run gets few steps and a drill that fits them."""
    words = [SHORTENED.get(word, word) for word in shlex.split(command)]
    assert words[0] == "dougong", command
    if words[1] == "run" and words[2] == "examples/afd.yaml":
        words += ["-o", "steps=2", "-o", "schedule.warmup_steps=1"]
    elif words[1] == "run":
        drill = () if "drill=[]" in words else ("-o", "drill=[{at_step: 3, kill: east/1}]")
        words += [*SHORT, *drill]
    if any(word in words for word in WITHOUT_RAY) and words[1] in ("run", "resume"):
        words.append("--no-ray")
    if words[1] in FEWER:
        option, number = FEWER[words[1]]
        words[words.index(option) + 1] = number
    return [sys.executable, "-m", "dougong", *words[1:]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.timeout(600)
def test_the_readme_s_commands_do_what_they_say(place: Path) -> None:
    short = [command for command in commands() if command.split()[1] not in AT_LENGTH]
    assert len(short) >= 12
    for command in short:
        run(command, place)
    assert (place / "runs/first/report.html").is_file()
    assert_model_loads(place)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", AT_LENGTH)
def test_the_readme_s_long_commands_do_what_they_say(name: str, place: Path) -> None:
    (command,) = (command for command in commands() if command.split()[1] == name)
    run(command, place)


def test_every_command_has_the_options_that_it_is_given() -> None:
    """Also those that are not run each time."""
    assert {command.split()[1] for command in commands()} >= set(AT_LENGTH)
    for command in commands():
        _, name, *words = shlex.split(command)
        known = {option for parameter in load_command(name).params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, command


def run(command: str, place: Path) -> None:
    ended = subprocess.run(shorter(command), cwd=place, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"


def assert_model_loads(place: Path) -> None:
    """The README's lines of Python, with the step that the shortened run ended with."""
    (code,) = blocks("python")
    script = code.replace("step-000060", "step-000006") + "\nprint(model.config.model_type)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip().endswith("qwen3_moe"), ended.stderr


def test_what_is_not_run_here_is_run_elsewhere() -> None:
    plain = [line.strip() for block in blocks("") for line in block.splitlines() if line.strip()]
    lines = [line for line in plain if line.split()[0] in ("make", "ray", "export", "dougong")]
    assert lines
    for line in lines:
        assert any(line.startswith(known) for known in RUNS_ELSEWHERE), line


def test_the_readme_s_islands_are_a_valid_part_of_a_job() -> None:
    (text,) = blocks("yaml")
    islands = [Island.model_validate(raw) for raw in yaml.safe_load(text)["islands"]]
    assert [island.accelerator for island in islands] == ["cuda", "npu"]


@pytest.mark.parametrize("page", ["data.md", "fine-tuning.md", "images.md"])
def test_jobs_and_parts_of_jobs_on_the_pages_are_valid(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    assert found or "```" not in text or "yaml" not in text
    whole = make_job().model_dump(mode="json")
    for block in found:
        given = yaml.safe_load(block)
        assert Job.model_validate(given if "job" in given else whole | given)


HEAD_OF_CASES = ["fault", "what happens by itself", "within", "what is kept", "what you do"]


def cases() -> list[list[str]]:
    """The rows of the table of what happens at 3 a.m."""
    _, _, section = README.partition("## At 3 a.m.")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == HEAD_OF_CASES
    return rows[2:]


def faults_of(row: list[str]) -> list[NamedFault]:
    """Those that the row names before its colon."""
    named = re.findall(r"`([\w+]+)`", row[0].partition(":")[0])
    found = [known_fault(name) for name in named]
    assert all(found), f"no fault of the vocabulary: {row[0]}"
    return [fault for fault in found if fault is not None]


def test_every_fault_has_one_row_for_the_operator_at_3_a_m() -> None:
    named = [fault.name for row in cases() for fault in faults_of(row)]
    assert sorted(named) == sorted(fault.name for fault in FAULTS)


@pytest.mark.parametrize("row", cases(), ids=lambda row: row[0][:40])
def test_a_row_says_what_happens_what_is_kept_and_what_to_do(row: list[str]) -> None:
    assert len(row) == len(HEAD_OF_CASES) and row[1] and row[3] and row[4]
    assert not row[1].startswith("the run ends"), "it goes on after each of them"
    text = " ".join(row)
    for key, seconds in re.findall(r"`fault\.deadlines\.(\w+)` \((\d+) s\)", text):
        assert getattr(DEADLINES, key) == float(seconds), key
    assert text.count("fault.deadlines.") == len(re.findall(r"fault\.deadlines\.\w+` \(\d+ s\)", text))
    known = {command.name for command in COMMANDS}
    assert set(re.findall(r"`dougong (\w+)", text)) <= known
