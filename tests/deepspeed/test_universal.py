"""DeepSpeed's universal checkpoints: every tensor under its name here, to the bit, and what does not fit named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.deepspeed.universal import MOMENTS, UniversalCheckpoint
from dougong.errors import CheckpointError
from tests.checkpoint.saving import names_of, state_of, tiny_model
from tests.deepspeed.universal_folder import State, live_parameters, older_parameters, write

NORM = "model.norm.weight"
Change = Callable[[Path], object]


class Known:
    """A model with a state for all of it."""

    def __init__(self, family: str) -> None:
        model = tiny_model(family)
        self.names = names_of(model)
        self.state: State = state_of(model, self.names)

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


def reshaped(folder: Path) -> None:
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
    (reshaped, rf"{NORM} has shape \[3\], and the model \[64\]"),
    (stranger, "model.extra.weight is no tensor of the model"),
    (code, "holds more than tensors and plain values, which to load would be to run its code"),
    (torn, r"fp32.pt: is damaged, or no file of torch \(100 bytes\); convert the checkpoint again"),
    (lambda folder: (folder / "zero" / NORM / "exp_avg.pt").unlink(), f"{NORM} has no exp_avg.pt"),
    (lambda folder: shutil.rmtree(folder / "zero"), "has no folder `zero`, so it is no universal checkpoint"),
    (lambda folder: next(folder.glob("*states.pt")).unlink(), "has no file mp_rank_00_model_states.pt"),
    (lambda folder: torch.save({}, next(folder.glob("*states.pt"))), "say global_steps: None, and not a step"),
]


@pytest.mark.parametrize(("change", "said"), MISFITS, ids=[said[:40] for _, said in MISFITS])
def test_what_does_not_fit_is_named(change: Change, said: str, known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state), stage=1)
    change(folder)
    with pytest.raises(CheckpointError, match=said):
        UniversalCheckpoint(folder, known.names).check()


def test_moments_of_another_size_are_refused_when_they_are_read(known: Known, tmp_path: Path) -> None:
    folder = write(tmp_path, live_parameters(known.names, known.state))
    torch.save(torch.zeros(3), folder / "zero" / NORM / "exp_avg.pt")
    found = UniversalCheckpoint(folder, known.names)
    with pytest.raises(CheckpointError, match=rf"exp_avg.pt of {NORM} has shape \[3\]"):
        found.moment("exp_avg", NORM)


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
