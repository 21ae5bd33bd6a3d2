"""The job with which a run goes on: packages that are gone, and a form of attention that a run has found."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from dougong.checkpoint.manifest import Manifest
from dougong.control.run_sources import LOOKED_FOR, RunSources
from dougong.errors import JobError
from dougong.job.load import ResolvedJob, load_job
from dougong.launcher.next_job import next_job, recorded_job
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated
from dougong.records.kept_sources import keep_sources
from tests.launcher.toyrun import toy_job

GONE = [
    {"name": "east", "accelerator": "hostsim", "workers": 2, "role": "attention"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "role": "experts"},
]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def resumed(run_dir: RunDir, *overrides: str) -> ResolvedJob:
    return next_job(recorded_job(run_dir), run_dir, overrides, None)


def test_what_a_run_had_from_a_package_that_is_gone_is_named_with_both_ways_on(run_dir: RunDir) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(islands=GONE)))
    with pytest.raises(JobError) as raised:
        resumed(run_dir)
    assert str(raised.value).splitlines() == [
        "islands.east.accelerator: the run has used hostsim, which no package that is installed here offers (an entry "
        "point of dougong.accelerators)",
        f"install the package that adds it, or go on without: `dougong resume {run_dir.path} -o "
        "islands.east.accelerator=cpu`, with `-o numerics=bounded` where other kernels give other bits",
    ]


def test_one_command_goes_on_without_all_that_is_gone_by_the_run_s_own_options(run_dir: RunDir) -> None:
    run_dir.append_event(RunCreated(generation=1, job="toy", command=("dougong", "run", "j.yaml", "--no-ray")))
    both = [{**island, "accelerator": "hostsim"} for island in GONE]
    run_dir.write_job(yaml.safe_dump(toy_job(islands=both, bridge="direct")))
    with pytest.raises(JobError) as raised:
        resumed(run_dir)
    *gone, remedy = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in gone] == [
        "islands.east.accelerator", "islands.west.accelerator", "bridge",
    ]  # fmt: skip
    (command,) = re.findall(r"`(dougong [^`]+)`", remedy)
    *words, last = shlex.split(command.removeprefix(f"dougong resume {run_dir.path} --no-ray "))
    assert [*words, last][::2] == ["-o", "-o", "-o"]
    job = resumed(run_dir, *[*words, last][1::2]).job
    assert [island.accelerator for island in job.islands] == ["cpu", "cpu"] and job.bridge == "auto"


def test_workers_that_have_shared_a_device_go_on_without_one(run_dir: RunDir) -> None:
    """Each command that is told is taken, and none sends anybody to edit the run's record."""
    shared = [{**GONE[0], "devices": "shared"}, GONE[1]]
    run_dir.write_job(yaml.safe_dump(toy_job(islands=shared)))
    with pytest.raises(JobError) as raised:
        resumed(run_dir)
    (command,) = re.findall(r"`(dougong [^`]+)`", str(raised.value))
    words = shlex.split(command)[3:]
    assert words == ["-o", "islands.east.accelerator=cpu", "-o", "islands.east.devices=own"]
    job = resumed(run_dir, *words[1::2]).job
    assert [(island.accelerator, island.devices) for island in job.islands] == [("cpu", "own"), ("cpu", "own")]
    with pytest.raises(JobError, match=r"no device of its own; add -o islands\.east\.devices=own$"):
        resumed(run_dir, "islands.east.accelerator=cpu")


def test_the_command_that_is_told_has_the_overrides_that_were_typed(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(islands=GONE)))
    monkeypatch.setattr("sys.argv", ["dougong", "resume", str(run_dir.path), "-o", "steps=9", "--override=bridge=auto"])
    with pytest.raises(JobError, match="-o steps=9 --override=bridge=auto -o islands.east.accelerator=cpu`"):
        resumed(run_dir, "steps=9", "bridge=auto")


def test_it_goes_on_with_what_an_override_names(run_dir: RunDir) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(islands=GONE)))
    job = resumed(run_dir, "islands.east.accelerator=cpu").job
    assert [island.accelerator for island in job.islands] == ["cpu", "cpu"]


def test_an_override_must_name_what_is_there(run_dir: RunDir) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(islands=GONE)))
    with pytest.raises(JobError, match=r"^-o islands.east.accelerator=hostsin: .*must be 'cpu', .*\(got 'hostsin'\)"):
        resumed(run_dir, "islands.east.accelerator=hostsin")


def test_a_job_given_anew_may_name_another_one(run_dir: RunDir, tmp_path: Path) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(islands=GONE)))
    anew = tmp_path / "anew.yaml"
    anew.write_text(yaml.safe_dump(toy_job(islands=[{**GONE[0], "accelerator": "cpu"}, GONE[1]])))
    job = next_job(recorded_job(run_dir), run_dir, (), load_job(anew)).job
    assert job.islands[0].accelerator == "cpu"


def attention(run_dir: RunDir, form: str | None) -> None:
    run_dir.write_job(yaml.safe_dump(toy_job(model={"family": "toy", "attention": form})))


def keep(run_dir: RunDir, form: str) -> None:
    keep_sources(run_dir, RunSources({}, "a.B", "d", attention=form))


def test_the_form_that_auto_has_found_is_the_run_s_own(run_dir: RunDir) -> None:
    attention(run_dir, "auto")
    keep(run_dir, "sdpa")
    assert resumed(run_dir, "model.attention=sdpa").job == resumed(run_dir).job
    with pytest.raises(JobError, match="^model.attention: auto then, eager now: this run computes attention by sdpa, "):
        resumed(run_dir, "model.attention=eager")


def test_so_is_the_form_that_transformers_has_chosen(run_dir: RunDir) -> None:
    attention(run_dir, None)
    keep(run_dir, "")
    checkpoint = run_dir.checkpoints / "step-000005"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_bytes(
        Manifest(5, 1, {"recipe": {"digest": "0", "attention": "sdpa"}}, {}).to_bytes()
    )
    assert resumed(run_dir, "model.attention=sdpa").job.model.attention is None
    for other in ("auto", "eager"):
        with pytest.raises(JobError, match=f"null then, {other} now: .* by sdpa, which transformers chose for the fam"):
            resumed(run_dir, f"model.attention={other}")


@pytest.mark.parametrize("known", [None, LOOKED_FOR])
def test_before_a_form_is_found_none_is_taken_for_it(run_dir: RunDir, known: str | None) -> None:
    attention(run_dir, "auto")
    if known:
        keep(run_dir, known)
    with pytest.raises(JobError, match="auto then, sdpa now: the run has not come to the form"):
        resumed(run_dir, "model.attention=sdpa")


def test_a_form_that_the_job_itself_has_said_stays(run_dir: RunDir) -> None:
    attention(run_dir, "sdpa")
    with pytest.raises(JobError, match="model.attention: sdpa then, auto now: this run has computed with the former"):
        resumed(run_dir, "model.attention=auto")
