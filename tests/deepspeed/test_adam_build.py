"""How DeepSpeed's CPU Adam is compiled, and what is told where it cannot be: before training, with what to do."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import socket
from pathlib import Path

import pytest
from dougong.deadlines import Deadlines
from dougong.deepspeed.adam_build import adam_remarks, built, check_adam, file_in
from dougong.errors import DeviceError
from dougong.job.schema import Job
from tests.jobs import make_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """With a cache in which nothing has been compiled."""
    return make_job(optimizer={"device": "host"}, cache=str(tmp_path))


def refusal(job: Job) -> str:
    with pytest.raises(DeviceError) as refused:
        check_adam(job)
    return str(refused.value)


def test_nothing_is_said_where_the_update_is_the_device_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/compiler")
    check_adam(make_job())
    assert not adam_remarks(make_job()).warnings and not adam_remarks(make_job()).notes


def test_a_missing_package_is_named_with_what_to_install(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_deepspeed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_deepspeed)
    said = f"optimizer.device: host: {socket.gethostname()}: the package deepspeed is not installed: "
    assert refusal(job) == f"{said}DS_BUILD_OPS=0 pip install 'dougong[deepspeed]'"
    (warning,) = adam_remarks(job).warnings
    assert warning.startswith("optimizer.device: host: on this machine, the package deepspeed is not installed")


def test_a_missing_compiler_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/compiler")
    said = refusal(job)
    assert "no C++ compiler `/no/compiler` is found" in said and "apt-get install g++" in said and "CXX" in said


@pytest.mark.simulated
def test_that_it_will_be_compiled_is_told_once(job: Job, tmp_path: Path) -> None:
    (note,) = adam_remarks(job).notes
    assert "about a minute" in note and str(tmp_path / "deepspeed") in note
    file = file_in(tmp_path / "deepspeed")
    file.parent.mkdir()
    file.touch()
    assert not adam_remarks(job).notes
    assert built(file.parent) == file, "nothing is compiled twice"


@pytest.mark.simulated
def test_who_waits_for_another_process_gives_up_in_time(tmp_path: Path) -> None:
    with (tmp_path / "cpu_adam.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match=r"another process has been compiling .* for 0.1 s; end it"):
            built(tmp_path, Deadlines(compile_s=0.1, poll_every_s=0.02))


@pytest.mark.simulated
@pytest.mark.slow
def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, said = tmp_path / "cxx", "adam.cpp:1: error: no space"
    fails = f"echo '{said}' >&2; exit 1"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *.cpp*) {fails};; *) exec g++ "$@";; esac\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(DeviceError) as refused:
        built(tmp_path / "place")
    log = file_in(tmp_path / "place").with_suffix(".log")
    assert said in str(refused.value) and str(log) in str(refused.value) and said in log.read_text()


@pytest.mark.simulated
def test_a_compiler_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"does not compile: it was not done after 0.5 s; see "):
        built(tmp_path, Deadlines(compile_s=0.5))
    assert not file_in(tmp_path).exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"`cache:` in the job file"):
        built(tmp_path / "file" / "deepspeed")


@pytest.mark.parametrize("exposed", ["file", "folder"])
def test_a_library_that_others_could_have_written_is_not_loaded(tmp_path: Path, exposed: str) -> None:
    file = file_in(tmp_path / "place")
    file.parent.mkdir()
    file.write_bytes(b"")
    assert built(tmp_path / "place") == file
    (file if exposed == "file" else file.parent).chmod(0o777)
    with pytest.raises(DeviceError, match="other users of this machine may have written it"):
        built(tmp_path / "place")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another's file")
def test_what_another_user_has_put_into_the_folder_of_temporary_files_is_not_loaded(tmp_path: Path) -> None:
    file = file_in(tmp_path / "place")
    file.parent.mkdir()
    file.write_bytes(b"")
    os.chown(file.parent, 12345, 12345)
    with pytest.raises(DeviceError, match="other users of this machine may have written it"):
        built(tmp_path / "place")


def test_a_compiler_that_does_not_answer_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    assert "the C++ compiler `/bin/false` does not say its version" in refusal(job)
    assert "/bin/false" in adam_remarks(job).warnings[0]


def test_a_place_that_takes_nothing_is_told_before_anything_is_promised(job: Job) -> None:
    told = adam_remarks(job.model_copy(update={"cache": "/proc/none"}))
    assert not told.notes and "/proc/none/deepspeed: the cache cannot be written" in told.warnings[0]
