"""A long plan is read from its file, by its digest: whatever else lies there is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.control import plan_file
from dougong.control.plan_file import PlanFile, digest_of, plan_for_workers, read_plan
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.parallel.plan import Inventory, Plan, Seat, make_plan

QUICK = Deadlines(shared_file_s=0.1, shared_file_every_s=0.01)


def plan_of(num_workers: int) -> Plan:
    seats = [Seat(f"east/{i}", "here", "both", "east", f"cpu:{i}") for i in range(num_workers)]
    return make_plan(num_workers, Inventory("toy", (), (), num_workers, ()), seats)


def test_a_short_plan_travels_itself_and_a_long_one_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path = plan_of(8), tmp_path / "plan.json"
    assert plan_for_workers(plan, path) is plan
    monkeypatch.setattr(plan_file, "MOST_INLINE_BYTES", 100)
    asked = plan_for_workers(plan, path)
    assert isinstance(asked, PlanFile)
    path.write_text(plan.to_json())
    assert read_plan(asked, QUICK).plan == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (plan_of(4).to_json(), f"has digest {digest_of(plan_of(4).to_json())}: it is another plan's, or was cut"),
        (plan_of(8).to_json()[:-9], "it is another plan's, or was cut"),
        ("", "it is another plan's, or was cut"),
    ],
)
def test_a_file_that_is_not_that_plan_is_named_with_both_digests(tmp_path: Path, text: str | None, words: str) -> None:
    path, digest = tmp_path / "plan.json", digest_of(plan_of(8).to_json())
    if text is not None:
        path.write_text(text)
    with pytest.raises(LaunchError) as raised:
        read_plan(PlanFile(str(path), digest), QUICK)
    assert str(raised.value).startswith(str(path)) and words in str(raised.value)
    assert f"the plan of this generation has digest {digest}" in str(raised.value)
    assert "0.1 s (fault.deadlines.shared_file_s)" in str(raised.value)


def test_a_text_of_another_release_is_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"a": 1}')
    with pytest.raises(LaunchError, match="no plan of this release"):
        read_plan(PlanFile(str(path), digest_of('{"a": 1}')), QUICK)
