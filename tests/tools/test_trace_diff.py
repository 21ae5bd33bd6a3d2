"""`dougong diff --trace` on real runs: a record that is wrong, and runs that have no place to be found."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from dougong.cli.diff import diff as diff_command
from dougong.errors import JobError
from dougong.parallel import pieces
from dougong.records.directory import RunDir
from dougong.tools.run_diff import diff
from dougong.tools.trace_diff import owner_of, retrace
from tests.jobs import make_job, plan_for
from tests.tools.recording import QUICK, recorded, small_job
from tests.training.flipping import Flip
from typer.testing import CliRunner


@pytest.mark.slow
def test_a_record_that_no_layout_reproduces_is_wrong(tmp_path: Path, temporary: Path) -> None:
    """The flip happened once, in the recorded run: diff names the step and its tensors; from the checkpoint before it
    both layouts compute A's bits."""
    job = small_job(tmp_path, steps=3, checkpoint={"every": 1}, schedule={})
    job = job.model_copy(update={"islands": (job.islands[0].model_copy(update={"workers": 2}),)})
    a = recorded(job, "BB", tmp_path / "a")
    b = recorded(job, "BB", tmp_path / "b", Flip(step=3, bit=16))
    assert_diff_names_step_and_tensors(a, b)
    found = retrace(a, b, QUICK)
    assert (found.step, found.place) == (3, None) and found.start.startswith("step-000002 of ")
    assert found.lines[:2] == ("both layouts compute the same bits again", "which is what run A recorded")
    assert found.lines[2].startswith("run B's step 3 is not reproduced: ")
    assert list(temporary.glob("dougong-*")) == []
    with pytest.raises(JobError, match="do not part"):
        retrace(a, a, QUICK)


def assert_diff_names_step_and_tensors(a: RunDir, b: RunDir) -> None:
    comparison = diff(a.path, b.path)
    assert not comparison.equal and comparison.compared == "the ledger of 3 steps"
    names = [d.name for d in comparison.differences if d.name != "loss"]
    assert {d.step for d in comparison.differences} == {3}
    gradients = [n for n in names if n.startswith("gradient of ")]
    assert names[: len(gradients)] == sorted(gradients) and "gradient of model.embed_tokens.weight" in gradients
    weights = names[len(gradients) :]
    assert weights == sorted(weights) and all(n.startswith("weight of ") for n in weights)
    (b.ledger).rename(b.path / "elsewhere")
    assert "which tensors is not known" in str(diff(a.path, b.path))
    (b.path / "elsewhere").rename(b.ledger)
    assert diff(a.path, a.path).equal and "and the ledger of 3" in str(diff(a.path, a.path))


def test_runs_of_two_jobs_are_not_traced(tmp_path: Path) -> None:
    short = {"steps": 1, "drill": (), "schedule": {}}
    a = recorded(small_job(tmp_path, **short), "B", tmp_path / "a")
    b = recorded(small_job(tmp_path, **short, seed=8), "B", tmp_path / "b")
    with pytest.raises(JobError, match="their jobs differ in seed"):
        retrace(a, b, QUICK)
    app = typer.Typer()
    app.command()(diff_command)
    refused = CliRunner().invoke(app, [str(a.path), str(b.path), "--trace"])
    assert refused.exit_code == 2
    assert "step 1: loss: " in refused.output and "dougong diff --trace: " in refused.output


def test_a_piece_and_its_tensor_belong_to_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", 1024)
    plan = plan_for(make_job(), "BB")
    name = "model.embed_tokens.weight"
    first, second = f"{name}[0:1024]", f"{name}[1024:2048]"
    places = {first: first, second: second, name: first, f"{name}[0:16]": first}
    for asked, owned in places.items():
        assert owner_of(asked, plan, ["model.layers.0.mlp.experts"]).rank == plan.owners[owned]
    assert 3 in owner_of("model.layers.0.mlp.experts.down_proj[3]", plan, ["model.layers.0.mlp.experts"]).experts[0]
