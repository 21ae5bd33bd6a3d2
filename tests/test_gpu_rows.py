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


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_a_part_ends_within_ten_minutes(part: int) -> None:
    limits = [row.limit_s for row in gpu.ROWS if row.part == part]
    assert limits and sum(limits) <= gpu.PART_S < 600
    assert len({row.name for row in gpu.ROWS}) == len(gpu.ROWS)


def test_without_a_device_nothing_has_run_and_the_page_says_so(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    ended = run("--accelerator", "cuda", "--out", str(page), "--only", "attention", "job")
    assert ended.returncode == 0, ended.stderr
    assert "attention: not run" in ended.stdout and "no cuda device is here" in ended.stdout
    text = page.read_text()
    assert "torch " not in text and text.count("| not run |") == 2, "nothing was run anywhere"


def on_page(page: Path) -> dict[str, str]:
    return {line.split("|")[1].strip(): line for line in page.read_text().splitlines() if line.startswith("| ")}


def test_a_figure_keeps_the_place_where_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside rows of another card, and after a call on a machine without one."""
    page = tmp_path / "gpu.md"
    rows = {row.name: row for row in gpu.ROWS}
    card = "cuda: NVIDIA H200; Python 3.12.3, torch 2.11.0+cu130"
    earlier = [gpu.Outcome(rows["job"], "ran", "12 steps", 3.0, card), gpu.Outcome(rows["price"], "not run", "no cuda")]
    page.write_text(gpu.table(earlier))
    monkeypatch.setattr(gpu, "ROWS", tuple(rows[name] for name in ("rows", "job", "price")))
    monkeypatch.setattr(gpu, "run_row", lambda row, *rest: gpu.Outcome(row, "ran", "figures", 1.0))

    def called(*words: str) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(page), *words])
        gpu.main()
        return on_page(page)

    here = gpu.place("cpu")
    assert here.startswith("cpu: ") and "torch " in here
    lines = called("--accelerator", "cpu", "--only", "rows")
    assert lines["rows"].endswith(f"| {here} | figures |") and lines["job"].endswith(f"| {card} | 12 steps |")
    assert lines["price"].endswith("|  | no cuda |")
    monkeypatch.setattr(gpu, "run_row", lambda row, *rest: gpu.Outcome(row, "not run", "no cuda device is here"))
    assert called("--accelerator", "cuda") == lines | {
        "price": lines["price"].replace("no cuda", "no cuda device is here")
    }


def test_a_page_of_the_earlier_form_loses_no_row(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(
        "# On a GPU\n\n| job | a job twice | ran | 3.0 | 12 steps |\n| rows | bits | ran | much | by hand |\n"
    )
    (found,) = gpu.known_before(page, gpu.ROWS).values()
    assert (found.row.name, found.seconds, found.where, found.words) == ("job", 3.0, "not noted", "12 steps")


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    for out, why in {
        tmp_path / "none" / "gpu.md": f"{tmp_path / 'none'} is no folder",
        tmp_path: "is a folder; name a file in it",
        tmp_path / "notes.md": "holds something else, which would be lost; name another file",
        tmp_path / "bytes": "holds something else, which would be lost; name another file",
        tmp_path / "pipe": "is no plain file",
        Path("/proc/gpu.md"): "cannot be written: ",
    }.items():
        assert gpu.why_no_page(out).startswith(why), out
    ended = run("--accelerator", "cpu", "--only", "versions", "--out", str(tmp_path / "none" / "gpu.md"))
    (*_, said) = ended.stderr.splitlines()
    assert ended.returncode == 2 and not ended.stdout
    assert said.endswith(f"error: --out {tmp_path / 'none' / 'gpu.md'}: {tmp_path / 'none'} is no folder")
    assert not gpu.why_no_page(tmp_path / "gpu.md") and not (tmp_path / "gpu.md").exists()
    assert (tmp_path / "notes.md").read_text() == "# Notes\n"


@pytest.mark.slow
def test_the_other_parts_stay_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    run("--accelerator", "cuda", "--out", str(page), "--only", "job")
    ended = run("--accelerator", "cpu", "--out", str(page), "--only", "adamw", "rows")
    assert ended.returncode == 0, ended.stderr
    lines = on_page(page)
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
