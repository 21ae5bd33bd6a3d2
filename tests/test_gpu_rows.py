"""The looks at a lent GPU: their order and limits, and that they run, on a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from dougong.tools.job_check import load_whole_job
from tests.programs import load

ROOT = Path(__file__).resolve().parent.parent


gpu = load("gpu")


def run(*words: str, within_s: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=within_s
    )


@pytest.mark.parametrize("half", [1, 2])
def test_a_half_ends_within_ten_minutes(half: int) -> None:
    limits = [row.limit_s for row in gpu.ROWS if row.half == half]
    assert limits and sum(limits) <= gpu.HALF_S < 600
    assert len({row.name for row in gpu.ROWS}) == len(gpu.ROWS)


def test_without_a_device_nothing_has_run_and_the_page_says_so(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    ended = run("--accelerator", "cuda", "--out", str(page), "--only", "attention", "job")
    assert ended.returncode == 0, ended.stderr
    assert "attention: not run" in ended.stdout and "no cuda device is here" in ended.stdout
    text = page.read_text()
    assert "torch " in text and text.count("| not run |") == 2


@pytest.mark.slow
def test_the_other_half_stays_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    run("--accelerator", "cuda", "--out", str(page), "--only", "job")
    ended = run("--accelerator", "cpu", "--out", str(page), "--only", "adamw", "rows")
    assert ended.returncode == 0, ended.stderr
    lines = {line.split("|")[1].strip(): line for line in page.read_text().splitlines() if line.startswith("| ")}
    assert "| ran |" in lines["adamw"] and "the bits of 4 steps" in lines["adamw"]
    assert "| ran |" in lines["rows"] and "| not run |" in lines["job"]
    assert list(lines)[1:] == ["adamw", "rows", "job"], "in the order of the rows"


def test_a_row_that_fails_or_takes_too_long_says_so() -> None:
    failing = gpu.Row("fails", 1, 30, "", ("-c", "raise SystemExit('other bits')"))
    assert gpu.run_row(failing, "cpu", {}).state == "failed" and "other bits" in gpu.run_row(failing, "cpu", {}).words
    slow = gpu.Row("slow", 1, 0.5, "", ("-c", "print('begun', flush=True); import time; time.sleep(60)"))
    found = gpu.run_row(slow, "cpu", {})
    assert (found.state, found.words) == ("too slow", "ended after 0.5 s; begun")


def test_what_the_interpreter_lacks_comes_from_a_folder_of_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("lent_package",))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=r"lacks lent_package: name a folder of their wheels, GPU_WHEELS=FOLDER"):
        gpu.unpacked(None, tmp_path)
    (tmp_path / "wheels").mkdir()
    with pytest.raises(SystemExit, match="has no wheel of lent_package"):
        gpu.unpacked(tmp_path / "wheels", tmp_path / "into")
    with zipfile.ZipFile(tmp_path / "wheels" / "lent_package-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lent_package/__init__.py", "")
    assert gpu.unpacked(tmp_path / "wheels", tmp_path / "into") == [str(tmp_path / "into")]
    assert (tmp_path / "into" / "lent_package" / "__init__.py").is_file()


def make_gpu(interpreter: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "gpu", f"GPU_PYTHON={interpreter}"],
        cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def said_by(ended: subprocess.CompletedProcess[str]) -> str:
    """Its one sentence, beside make's own line."""
    assert ended.returncode != 0 and not ended.stdout, ended.stdout
    (sentence,) = (line for line in ended.stderr.splitlines() if not line.startswith("make"))
    return sentence


def test_an_interpreter_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "other").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "other").chmod(0o755)
    for name, why in (("none", "is not there"), ("plain", "cannot be executed"), ("other", "is no Python of 3.10")):
        said = said_by(make_gpu(str(tmp_path / name)))
        assert said.startswith(f"GPU_PYTHON={tmp_path / name} {why}") and said.endswith("make gpu GPU_PYTHON=PATH")
    assert said_by(make_gpu("python-of-nobody")).startswith("GPU_PYTHON=python-of-nobody is not there")


def test_an_interpreter_without_a_torch_that_loads_is_one_sentence(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    bare = str(tmp_path / "bare" / "bin" / "python")
    said = said_by(make_gpu(bare, PYTHONPATH=""))
    assert "has no torch that loads (No module named 'torch')" in said and "GPU_PYTHON=PATH" in said
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    broken = tmp_path / "broken" / "torch" / "__init__.py"
    broken.write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    said = said_by(make_gpu(sys.executable, PYTHONPATH=str(tmp_path / "broken")))
    assert "its torch does not load (libcudart.so.13: cannot open" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", [row.name for row in gpu.ROWS if row.on_cpu and row.name != "conform"])
def test_rows_run_on_a_processor(row: str, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    ended = run("--accelerator", "cpu", "--out", str(page), "--only", row, "--times-limit", "6", within_s=800)
    assert ended.returncode == 0, ended.stderr
    assert f"{row}: ran" in ended.stdout, ended.stdout


@pytest.mark.parametrize("override", [(), ("islands.gpu.role=experts", "islands.host.role=attention")])
def test_the_job_of_a_gpu_and_processors_is_good_both_ways(override: tuple[str, ...]) -> None:
    assert load_whole_job(ROOT / "examples" / "cuda-cpu.yaml", override).job.job == "cuda-cpu"
