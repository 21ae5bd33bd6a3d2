"""`dougong fingerprint` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.cli.fingerprint import class_line
from dougong.fingerprint.record import UNSTABLE, Fingerprint
from tests.families import SMALLEST
from tests.launcher.jobs import ROOT, write


def dougong(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", *map(str, words)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_fingerprint_is_printed_saved_and_compared(tmp_path: Path) -> None:
    config = json.dumps(SMALLEST)
    job = write(tmp_path, model=f"{{family: qwen3_moe, config: {config}}}", data="{text: stdlib, sequence_length: 16}")
    saved = dougong("fingerprint", job, "--json")
    assert (saved.returncode, saved.stderr) == (0, "")
    found = json.loads(saved.stdout)
    assert any(name.startswith("job: product") for name in found["probes"])
    file = tmp_path / "here.json"
    file.write_text(saved.stdout)

    same = dougong("fingerprint", job, "--against", file)
    assert (same.returncode, same.stdout) == (0, f"equal: class {found['class']}, {len(found['probes'])} probes\n")

    other = dougong("fingerprint", job, "--threads", "2", "--against", file)
    assert other.returncode == 1
    assert "layer_norm float32" in other.stdout
    assert "threads: 1 | 2" in other.stdout
    assert "job file" not in other.stdout


@pytest.mark.slow
def test_without_a_job_what_any_job_computes_is_printed() -> None:
    general = dougong("fingerprint", "--probes")
    assert general.returncode == 0
    assert "  product K=2048 bfloat16" in general.stdout
    assert "$OMP_NUM_THREADS" in general.stdout


def test_a_file_that_is_no_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    file.write_text("{}")
    done = dougong("fingerprint", "--against", file)
    assert done.returncode == 2
    assert done.stderr.startswith(f"--against {file}: is no fingerprint (at 'probes'); give a file that `dougong")
    file.write_text("{")
    assert "is not JSON (" in dougong("fingerprint", "--against", file).stderr
    gone = dougong("fingerprint", "--against", tmp_path / "none")
    assert (gone.returncode, gone.stdout) == (2, "")
    assert gone.stderr.startswith(f"--against {tmp_path / 'none'}: no such file or directory; give")


@pytest.mark.parametrize("kind", ["npu", "gpu"])
def test_a_device_that_is_not_here_is_one_sentence(kind: str) -> None:
    done = dougong("fingerprint", "--accelerator", kind)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"accelerator {kind}: ") and done.stderr.count("\n") == 1


def test_a_plan_shows_what_workers_find_in_their_environment() -> None:
    done = dougong("plan", "examples/quickstart.yaml", "-o", "islands.east.threads=3")
    _, _, words = done.stdout.partition("east: workers run with\n")
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3", "MKL_DYNAMIC=FALSE"} <= set(words.split())


def test_one_line_names_the_class_and_what_gave_two_answers() -> None:
    found = Fingerprint({"product": "aa", "sum": UNSTABLE}, "q")
    line = class_line(found, "cpu", 1)
    assert line == (
        f"class {found.kernel_class} (cpu, 1 thread, 2 probes, two answers of sum; --probes shows each of them)"
    )
