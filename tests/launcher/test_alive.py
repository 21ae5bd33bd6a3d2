"""Who may have a run while its controller lives: tests/launcher/test_take_over.py has the looks themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import AliveError
from dougong.launcher.alive import refuse_if_alive
from dougong.records.directory import RunDir
from dougong.records.status import ControllerAddress


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["dougong", "resume", "r"], "dougong resume {path} --take-over"),
        (["dougong", "run", "j.yaml"], "dougong resume {path} --take-over"),
        (["/bin/dougong", "start", "my j.yaml", "--run-dir", "r"], "dougong start 'my j.yaml' --run-dir r --take-over"),
    ],
)
def test_what_is_typed_for_a_controller_that_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], advice: str
) -> None:
    monkeypatch.setattr("sys.argv", words)
    run = RunDir.create(tmp_path / "run")
    run.write_controller(ControllerAddress(host="192.0.2.1", port=1, pid=7, token="t", machine="node9"))
    address = ControllerAddress(host="127.0.0.1", port=1, pid=7, token="t", machine="node9")
    run.write_controller(address)
    with pytest.raises(AliveError) as caught:
        refuse_if_alive(run)
    assert str(caught.value).endswith(f"when that process is dead: {advice.format(path=run.path)}")
    assert caught.value.exit_status == 3
    refuse_if_alive(run, takes_over=True)
