"""A worker's fingerprint: measured, cached, found again; a damaged file counts as none."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.errors import DeviceError
from dougong.fingerprint.cache import Probing, cached, fingerprint, key_of, measure
from dougong.fingerprint.record import UNSTABLE, Fingerprint
from dougong.job.schema import Job
from dougong.tools.fingerprint_apart import measure_apart
from dougong.training.start.preflight import inspect_only, shapes_of
from tests.jobs import make_job
from tests.launcher.toyrun import ROOT

JOB = make_job()
PROBING = Probing("cpu", 0, JOB)


@pytest.fixture(scope="module")
def measured() -> Fingerprint:
    return measure(PROBING)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_what_was_measured_is_found_again(tmp_path: Path, measured: Fingerprint) -> None:
    folder = tmp_path / "a" / "b"
    assert cached(PROBING, folder) == measured
    other = Fingerprint({"told": "by the file"}, "r")
    only_file(folder).write_text(json.dumps(other.to_json()))
    assert cached(PROBING, folder) == other
    assert cached(dataclasses.replace(PROBING, index=1), folder) == measured


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"exp float32": "', '"exp float32": "0'),
        lambda text: "[]",
        lambda text: "\udcff",
    ],
)
def test_a_damaged_file_counts_as_none(damage: object, tmp_path: Path, measured: Fingerprint) -> None:
    file = tmp_path / f"{key_of(PROBING)}.json"
    whole = json.dumps(measured.to_json())
    assert callable(damage)
    file.write_bytes(damage(whole).encode("utf-8", "surrogateescape"))
    assert cached(PROBING, tmp_path) == measured
    assert json.loads(only_file(tmp_path).read_text()) == json.loads(whole)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, measured: Fingerprint) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cached(PROBING, tmp_path / "file") == measured


def test_the_job_names_the_place(tmp_path: Path, measured: Fingerprint) -> None:
    probing = dataclasses.replace(PROBING, job=JOB.model_copy(update={"cache": str(tmp_path)}))
    (tmp_path / "fingerprints").mkdir()
    (tmp_path / "fingerprints" / f"{key_of(probing)}.json").write_text(json.dumps(measured.to_json()))
    assert fingerprint(probing) == measured


def test_the_key_holds_what_the_answer_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = shapes_of(JOB, inspect_only(JOB))
    asked = [
        PROBING,
        dataclasses.replace(PROBING, index=1),
        dataclasses.replace(PROBING, accelerator="cuda"),
        dataclasses.replace(PROBING, job=make_job(precision="bfloat16")),
        dataclasses.replace(PROBING, shapes=shapes),
        dataclasses.replace(PROBING, shapes=dataclasses.replace(shapes, rows=(1,))),
    ]
    keys = {key_of(probing) for probing in asked}
    assert len(keys) == len(asked)
    assert key_of(dataclasses.replace(PROBING, job=make_job(seed=9, steps=8), worker="west/3")) in keys
    for name in ("OMP_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "something else")
            assert key_of(PROBING) not in keys, name
    with monkeypatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "something else")
        assert key_of(dataclasses.replace(PROBING, accelerator="cuda")) not in keys
        assert key_of(PROBING) in keys, "no library of a processor reads it"


def test_a_cached_one_needs_no_torch(tmp_path: Path, measured: Fingerprint) -> None:
    (tmp_path / f"{key_of(PROBING)}.json").write_text(json.dumps(measured.to_json()))
    code = (
        "import sys; from pathlib import Path; from dougong.job.schema import Job\n"
        "from dougong.fingerprint.cache import Probing, cached\n"
        "job = Job.model_validate_json(sys.argv[1])\n"
        "print(cached(Probing('cpu', 0, job), Path(sys.argv[2])).kernel_class, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, JOB.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [measured.kernel_class, "False"]


def test_an_unstable_one_is_not_kept(tmp_path: Path, measured: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    restless = dataclasses.replace(measured, probes={"sum": UNSTABLE})
    monkeypatch.setattr("dougong.fingerprint.cache.measure", lambda probing: restless)
    assert cached(PROBING, tmp_path) == restless
    assert list(tmp_path.iterdir()) == []


def test_the_environment_tells_device_and_variables(measured: Fingerprint) -> None:
    assert measured.environment["$OMP_NUM_THREADS"] == "1"
    assert measured.environment["cpu name"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_job_s_precision_decides_what_is_asked(precision: str) -> None:
    assert Probing("cpu", 0, make_job(precision=precision)).precisions == tuple(dict.fromkeys(("float32", precision)))
    assert Probing("cpu").precisions == ("float32", "bfloat16")


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "minimax_m2", "mixtral", "longcat_flash"])
def test_shapes_are_the_model_s_own(family: str) -> None:
    job = make_job(family)
    found = shapes_of(job, inspect_only(job))
    assert (found.hidden, found.experts, found.vocabulary, found.sequence) == (64, 8, 256, 16)
    assert found.inner in (32, 96)
    assert {(found.hidden, found.inner), (found.inner, found.hidden)} & set(found.matrices)
    assert (256, 64) in found.matrices
    assert set(found.rows) == {1, 7, 8, 16, 32, 33}  # 2 x 16 tokens, 2 of 8 experts for each: 8 rows


def test_a_child_measures_in_a_worker_s_environment(monkeypatch: pytest.MonkeyPatch, measured: Fingerprint) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the shell's: of no account
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the cores to other tests
    job = Job.model_validate(JOB.model_dump())
    found = measure_apart(Probing("cpu", 0, job), 2)
    assert (found.environment["threads"], found.environment["$OMP_NUM_THREADS"]) == ("2", "2")
    assert any(name.startswith("job: product") for name in found.probes)
    assert found.probes["layer_norm float32"] != measured.probes["layer_norm float32"]
    assert found.probes["exp float32"] == measured.probes["exp float32"]  # the inputs are the same in every process


def test_a_device_that_does_not_open_is_told() -> None:
    with pytest.raises(DeviceError, match="cuda"):
        measure(Probing("cuda", 99))
    with pytest.raises(DeviceError, match="accelerator npu"):
        measure_apart(Probing("npu"), 1)
