"""A DeepSpeed checkpoint becomes a run that goes on: with its weights, moments and step, to the bit."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dougong.accelerators.registry import get_accelerator
from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.reader import CheckpointReader
from dougong.cli.checkpoint import import_deepspeed as command
from dougong.errors import CheckpointError, PlaceError, SourceError
from dougong.launcher.client import read_status
from dougong.parallel.comm.world import World
from dougong.records.directory import RunDir
from dougong.tools import import_deepspeed as importing
from dougong.tools.import_deepspeed import import_deepspeed
from dougong.tools.job_check import load_whole_job
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.state import open_start, state_of
from tests.checkpoint.saving import live_tensor, names_of, tiny_model
from tests.deepspeed.universal_folder import DAMAGE, live_parameters, trained_state, write
from tests.families import config_values
from tests.jobs import VOCAB, plan_for
from tests.ui.recorded import finished_run

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600


def job_file(folder: Path, **changes: Any) -> Path:
    values = {
        "job": "imported",
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe")},
        "data": {"text": "stdlib", "sequence_length": 16},
        "steps": 9,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 1}],
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def read(run: RunDir, names: Any) -> CheckpointReader:
    (place,) = list_committed(run.checkpoints)
    return CheckpointReader(place.path, names)


def test_the_run_has_one_checkpoint_with_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("qwen3_moe")
    names = names_of(model)
    state = trained_state(model, names)
    folder = write(tmp_path / "universal", live_parameters(names, state), step=7)
    command(job_file(tmp_path), folder, tmp_path / "run")
    said = capsys.readouterr().out
    assert f"next: dougong resume {tmp_path / 'run'}" in said and "after step 7" in said
    run = RunDir.open(tmp_path / "run")
    with read(run, names) as reader:
        assert reader.step == 7 and reader.metadata["imported"]["from"] == str(folder)
        for (group, name), value in state.items():
            assert torch.equal(reader.read(group, name), value), (group, name)
        assert float(reader.read("step", "model.norm.weight")) == 5.0
    status = read_status(run)
    assert status.has_ended and status.step == 7 and run.read_status() is not None


def test_a_run_with_half_moments_begins_with_them_rounded(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe")
    names = names_of(model)
    state = trained_state(model, names)
    folder = write(tmp_path / "universal", live_parameters(names, state), step=7)
    half = {"name": "adamw", "lr": 1e-3, "state": "bfloat16"}
    resolved = load_whole_job(job_file(tmp_path, optimizer=half), [])
    import_deepspeed(resolved, folder, tmp_path / "run")
    (place,) = list_committed(RunDir.open(tmp_path / "run").checkpoints)
    job = resolved.job
    blueprint = build_model(job, VOCAB, torch.device("cpu"), get_accelerator("cpu").expert_operators())
    with open_start(job, blueprint.names, place.path) as start:
        stepper = rebuild(blueprint, plan_for(job), World.alone(), start, StepOptions())
    share = stepper.parts.share
    found = {(one.group, one.name): one.tensor for one in state_of(share.replica, share.optimizer)}
    stepper.close()
    moments = [key for key in state if key[0] in ("exp_avg", "exp_avg_sq")]
    assert moments and set(moments) <= set(found)
    for key in moments:
        assert torch.equal(found[key], state[key].to(torch.bfloat16)), key


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe", num_hidden_layers=1)
    names = names_of(model)
    folder = write(tmp_path / "universal", live_parameters(names, trained_state(model, names)))
    with pytest.raises(CheckpointError, match=r"model.layers.1.* is not there; .*; and \d+ more"):
        import_deepspeed(load_whole_job(job_file(tmp_path), []), folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_where_no_run_can_be_is_refused_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    """`folder` is no checkpoint at all: whoever read it would say so."""
    folder = tmp_path / "universal"
    folder.mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    done = finished_run(tmp_path / "done")
    (done.checkpoints / "step-000020").mkdir()
    (done.checkpoints / "step-000020" / "manifest.json").write_text("{}")
    job = load_whole_job(job_file(tmp_path), [])
    for into, why in {
        tmp_path / "file": "file is not a folder",
        tmp_path / "file" / "run": "file is not a folder",
        tmp_path / "gone": "gone is a link to .*nowhere, which is not there",
        tmp_path / "photos": "holds cat.jpg and is no run's folder",
        folder: "is in the checkpoint that is read",
        folder / "run": "is in the checkpoint that is read",
        tmp_path / "photos" / ".." / "universal" / "run": "is in the checkpoint that is read",
        done.path: "holds a run already, with checkpoints",
    }.items():
        with pytest.raises(
            PlaceError, match=f"^--into {into}: .*{why}.*; name a folder that is not there yet"
        ) as caught:
            import_deepspeed(job, folder, into)
        assert caught.value.exit_status == 2 and "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before the checkpoint is looked at, which is not there."""
    with pytest.raises(PlaceError, match="^--into /proc/a/run: /proc cannot be written: .*; name"):
        import_deepspeed(load_whole_job(job_file(tmp_path), []), tmp_path / "none", Path("/proc/a/run"))


def test_what_is_no_checkpoint_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none: no such folder; give the FOLDER") as caught:
        import_deepspeed(load_whole_job(job_file(tmp_path), []), tmp_path / "none", tmp_path / "run")
    assert caught.value.exit_status == 2 and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def universal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model("qwen3_moe")
    names = names_of(model)
    folder = tmp_path_factory.mktemp("deepspeed") / "universal"
    return write(folder, live_parameters(names, trained_state(model, names)), stage=1)


def test_a_damaged_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe")
    names = names_of(model)
    parameters = live_parameters(names, trained_state(model, names))
    job = load_whole_job(job_file(tmp_path), [])
    for kind in ("nan", "empty", "negative square", "large count", "sparse"):
        folder = write(tmp_path / kind.replace(" ", "-"), parameters, stage=1)
        file, damage, said = DAMAGE[kind]
        damage(folder / "zero" / "model.norm.weight" / file)
        with pytest.raises(SourceError, match=f"zero/model.norm.weight/{file} {said}") as caught:
            import_deepspeed(job, folder, tmp_path / "runs" / "imported")
        assert caught.value.exit_status == 2 and "optimizer.lr" not in str(caught.value)
        assert not (tmp_path / "runs").exists()


@contextmanager
def no_files_beyond(num_bytes: int) -> Iterator[None]:
    """As on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_storage_that_takes_no_more_leaves_nothing_behind(universal: Path, tmp_path: Path) -> None:
    job = load_whole_job(job_file(tmp_path), [])
    with (
        no_files_beyond(100_000),
        pytest.raises(CheckpointError, match="File too large; .*; nothing of the run is kept: import it again then"),
    ):
        import_deepspeed(job, universal, tmp_path / "runs" / "imported")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["_state", "commit", "_record"])
def test_an_interrupt_leaves_what_was_there(
    where: str, universal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, an empty folder, and a run without a checkpoint, which the import had set aside."""

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    job = load_whole_job(job_file(tmp_path), [])
    failed = tmp_path / "failed"
    (failed / "logs").mkdir(parents=True)
    (failed / "checkpoints").mkdir()
    (failed / "job.yaml").write_text("earlier")
    (failed / "logs" / "worker.log").write_text("earlier")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(importing, where, interrupted)
        for into in (tmp_path / "runs" / "imported", tmp_path / "empty", failed):
            with pytest.raises(KeyboardInterrupt):
                import_deepspeed(job, universal, into)
            assert sorted(tmp_path.rglob("*")) == before
    assert (failed / "job.yaml").read_text() == "earlier"
    assert import_deepspeed(job, universal, failed).step == 7


@pytest.mark.slow
@pytest.mark.simulated  # DeepSpeed compiles a library for its messages on the processor
@pytest.mark.timeout(900)
def test_deepspeed_s_own_checkpoint_goes_on(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), *sys.path])
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu", "PATH": tools}

    def python(*words: str, **more: str) -> str:
        ended = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    python("-m", "tests.tools.zero3", str(tmp_path), **alone)
    to_universal = ["--input_folder", str(tmp_path / "checkpoint" / "last"), "--output_folder", str(tmp_path / "u")]
    python("-m", "deepspeed.checkpoint.ds_to_universal", *to_universal, "--num_extract_workers", "1")
    job = job_file(tmp_path, steps=5)
    python("-m", "dougong", "import-deepspeed", str(job), str(tmp_path / "u"), "--into", str(tmp_path / "run"))
    weights, names = torch.load(tmp_path / "weights.pt"), names_of(tiny_model("qwen3_moe"))
    run = RunDir.open(tmp_path / "run")
    with read(run, names) as reader:
        for name, _ in names.tensors():
            assert torch.equal(reader.read("model", name), live_tensor(weights, name)), name
        assert float(reader.read("step", "model.norm.weight")) == 3.0
    python("-m", "dougong", "resume", str(run.path), "--no-ray")
    assert [row["step"] for row in run.latest_metrics()] == [4, 5]
