"""DeepSpeed's universal checkpoints: every tensor under its name here, to the bit, and what does not fit named."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.deepspeed.universal import MOMENTS, UniversalCheckpoint
from dougong.deepspeed.universal_files import Misfit
from dougong.errors import CheckpointError, SourceError
from tests.checkpoint.saving import names_of, tiny_model
from tests.deepspeed.universal_folder import DAMAGE, State, live_parameters, older_parameters, trained_state, write

NORM = "model.norm.weight"
Change = Callable[[Path], object]


class Known:
    """A model with a state for all of it."""

    def __init__(self, family: str) -> None:
        model = tiny_model(family)
        self.names = names_of(model)
        self.state: State = trained_state(model, self.names)

    def differs(self, found: UniversalCheckpoint) -> list[tuple[str, str]]:
        """What is read otherwise."""
        bad = []
        for name, _ in self.names.tensors():
            read = {"model": found.weights(name), **{kind: found.moment(kind, name) for kind in MOMENTS}}
            bad += [(kind, name) for kind, value in read.items() if not torch.equal(value, self.state[kind, name])]
        return bad


@pytest.fixture(scope="module")
def known() -> Known:
    return Known("qwen3_moe")


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("form", [live_parameters, older_parameters])
def test_every_tensor_is_read_to_the_bit(form: Callable[..., dict], stage: int, known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path / "universal", form(known.names, known.state), stage)
    found = UniversalCheckpoint(folder, known.names)
    found.check()
    assert not known.differs(found)
    assert (found.step, found.updates(NORM)) == (7, 5 if stage == 3 else 7), "steps that were skipped are no updates"


def test_experts_whose_files_are_transposed_and_in_one_are_read(tmp_path: Path) -> None:
    """gpt_oss: fused on disk too, with biases."""
    gpt_oss = Known("gpt_oss")
    found = UniversalCheckpoint(write(tmp_path, live_parameters(gpt_oss.names, gpt_oss.state)), gpt_oss.names)
    found.check()
    assert not gpt_oss.differs(found)


def test_a_wrapper_s_prefix_and_the_folder_above_are_understood(known: Known, tmp_path: Path) -> None:
    parameters = {f"module.{name}": value for name, value in live_parameters(known.names, known.state).items()}
    write(tmp_path / "global_step7_universal", parameters)
    (tmp_path / "latest_universal").write_text("global_step7_universal\n")
    found = UniversalCheckpoint(tmp_path, known.names)
    found.check()
    assert not known.differs(found)


class Runs:
    """Would run something when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return (os.system, ("true",))


def without(folder: Path) -> None:
    shutil.rmtree(folder / "zero" / NORM)
    unnoted(folder)


def unnoted(folder: Path) -> None:
    """DeepSpeed has not said which parameters it had."""
    (file,) = folder.glob("*model_states.pt")
    torch.save({**torch.load(file), "param_shapes": []}, file)


def states(**changes: object) -> Change:
    def change(folder: Path) -> None:
        (file,) = folder.glob("*model_states.pt")
        torch.save({**torch.load(file), **changes}, file)

    return change


def reshaped(folder: Path) -> None:
    unnoted(folder)
    torch.save({"param": torch.zeros(3)}, folder / "zero" / NORM / "fp32.pt")


def stranger(folder: Path) -> None:
    shutil.copytree(folder / "zero" / NORM, folder / "zero" / "model.extra.weight")


def code(folder: Path) -> None:
    torch.save({"param": Runs()}, folder / "zero" / NORM / "fp32.pt")


def torn(folder: Path) -> None:
    file = folder / "zero" / NORM / "fp32.pt"
    file.write_bytes(file.read_bytes()[:100])


MISFITS: list[tuple[Change, str]] = [
    (without, f"does not fit the job's model: {NORM} is not there; give the `model` of the job"),
    (reshaped, rf"{NORM}/fp32.pt has shape \[3\], and the model \[64\]; give the `model` of the job"),
    (stranger, "model.extra.weight is no tensor of the model"),
    (code, "fp32.pt holds more than tensors and plain values; to load it would be to run its code"),
    (torn, r"fp32.pt is damaged, or no file of torch \(100 bytes\); convert the checkpoint again"),
    (lambda folder: shutil.rmtree(folder / "zero"), "has no folder `zero`, .*--input_folder CHECKPOINT/TAG --output_f"),
    (lambda folder: next(folder.glob("*states.pt")).unlink(), "has no file mp_rank_00_model_states.pt"),
    (lambda folder: torch.save({}, next(folder.glob("*states.pt"))), "says global_steps: None, and not a number"),
    (states(global_steps=True), "says global_steps: True, and not a number from 1; convert"),
    (states(skipped_steps=9), "says skipped_steps: 9, and not a number from 0 to 7; convert"),
    (states(skipped_steps="few"), "says skipped_steps: few, and not a number from 0 to 7; convert"),
    (states(param_shapes=[3]), "says param_shapes that name no parameters; convert"),
    (states(param_shapes={NORM: 3}), f"says param_shapes: {NORM}: 3; convert"),
    (states(module=3), "says a module that names no tensors; convert"),
]


@pytest.mark.parametrize(("change", "said"), MISFITS, ids=[said[:40] for _, said in MISFITS])
def test_what_does_not_fit_is_named(change: Change, said: str, known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    change(folder)
    with pytest.raises(CheckpointError, match=said):
        UniversalCheckpoint(folder, known.names).check()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_with_its_value_and_the_remedy(kind: str, known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    file, damage, said = DAMAGE[kind]
    damage(folder / "zero" / NORM / file)
    place = f"zero/{NORM}/{file}" if file else NORM
    whole = f"^{folder}: {place} {said}.*; convert the checkpoint again with ds_to_universal, or take an older one$"
    with pytest.raises(SourceError, match=whole) as caught:
        UniversalCheckpoint(folder, known.names).check()
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once_each_with_its_remedy(known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    stranger(folder)
    for kind in ("nan", "negative square", "half a count"):
        file, damage, _ = DAMAGE[kind]
        damage(folder / "zero" / NORM / file)
    torn_one = folder / "zero" / "lm_head.weight"
    for file in ("fp32.pt", "exp_avg.pt"):
        (torn_one / file).write_bytes(b"")
    with pytest.raises(SourceError) as caught:
        UniversalCheckpoint(folder, known.names).check()
    said = str(caught.value)
    assert "model.extra.weight is no tensor of the model; give the `model`" in said
    assert "fp32.pt" in said and "; and 2 more; convert the checkpoint again" in said


def test_fewer_updates_than_steps_are_taken_over_and_uneven_ones_are_not(known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, older_parameters(known.names, known.state), stage=1)
    torch.save(torch.tensor(3.0), folder / "zero" / NORM / "step.pt")
    found = UniversalCheckpoint(folder, known.names)
    trained = {name for name, _ in known.names.tensors()}
    found.check(trained)
    assert found.updates(NORM) == 3
    torch.save(torch.tensor(3.0), folder / "zero" / "model.layers.1.mlp.experts.2.up_proj.weight" / "step.pt")
    with pytest.raises(SourceError, match=r"its parts have had \[3, 7\] updates, and a tensor has one count here; c"):
        UniversalCheckpoint(folder, known.names).check(trained)


def test_what_was_frozen_is_refused_where_the_job_trains_it(known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    shutil.rmtree(folder / "zero" / NORM)
    states(module={NORM: known.state["model", NORM]})(folder)
    UniversalCheckpoint(folder, known.names).check()
    with pytest.raises(SourceError, match=f"{NORM} has no moments: it was frozen, and the job trains it; begin a run"):
        UniversalCheckpoint(folder, known.names).check({NORM})
    states(module={NORM: known.state["model", NORM].int()})(folder)
    with pytest.raises(SourceError, match=f"{NORM} holds torch.int32, and not float32"):
        UniversalCheckpoint(folder, known.names).check()


def test_a_place_without_a_checkpoint_is_told_as_what_it_is(known: Known, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "latest_universal").write_text("global_step7_universal")
    for place, said in {
        tmp_path / "none": f"^{tmp_path / 'none'}: no such folder; give the FOLDER that ds_to_universal has written",
        tmp_path / "file": f"^{tmp_path / 'file'}: is a file, and no folder; give the FOLDER",
        tmp_path: f"^{tmp_path / 'global_step7_universal'}: no such folder; {tmp_path / 'latest_universal'} names it",
    }.items():
        with pytest.raises(SourceError, match=said):
            UniversalCheckpoint(place, known.names)


def test_what_is_damaged_after_the_check_is_refused_when_it_is_read(known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state))
    found = UniversalCheckpoint(folder, known.names)
    torch.save(torch.zeros(3), folder / "zero" / NORM / "exp_avg.pt")
    with pytest.raises(Misfit, match=rf"{NORM}/exp_avg.pt: has shape \[3\], and the model \[64\]; conv") as caught:
        found.moment("exp_avg", NORM)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.exit_status == 2


def spoilt(data: bytes) -> dict[str, bytes]:
    """One file in all the ways in which a copy goes wrong."""
    middle = data.index(b"global_steps")
    return {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "cut at its end": data[:-1],
        "zeros": bytes(len(data)),
        "text": b"<html>404</html>",
        "its beginning lost": bytes(512) + data[512:],
        "a value's type": data[: middle - 1] + b"\xff" + data[middle:],
        "its directory": data.replace(b"PK\x01\x02", bytes(4)),
    }


@pytest.mark.parametrize("way", spoilt(b"0global_steps"))
def test_damaged_states_are_one_sentence_with_the_file_and_the_remedy(way: str, known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    (file,) = folder.glob("*mp_rank_00_model_states.pt")
    file.write_bytes(spoilt(file.read_bytes())[way])
    with pytest.raises(CheckpointError) as raised:
        UniversalCheckpoint(folder, known.names)
    said = str(raised.value)
    assert said == (
        f"{file}: is damaged, or no file of torch ({file.stat().st_size:,} bytes); convert the checkpoint again with "
        "ds_to_universal, or take an older one"
    )
