"""A disk of a lab: seen by its hosts, full, frozen; and files that a disk has spoilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.testing import Disk, Lab, LabError
from dougong.testing.disk import flip_in_newest, tear_newest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_a_disk_is_seen_filled_and_frozen(lab: Lab) -> None:
    one, two = lab.hosts
    disk = Disk(lab.hosts, lab.shared / "disk", 16)
    one.check(["sh", "-c", f"echo here > {disk.path}/a"])
    assert two.check(["cat", f"{disk.path}/a"]) == "here\n" and (disk.outside / "a").read_text() == "here\n"
    disk.fill()
    assert "No space left" in two.run(["dd", "if=/dev/zero", f"of={disk.path}/b", "bs=64k", "count=4"]).output
    disk.empty()
    assert two.run(["dd", "if=/dev/zero", f"of={disk.path}/b", "bs=64k", "count=4"]).status == 0
    disk.freeze(1.0)
    one.check(["sleep", "0.3"])
    written = two.run(["sh", "-c", f"echo more > {disk.path}/c; sync"], timeout_s=30)
    assert written.status == 0 and written.seconds > 0.3, "whoever writes waits, and goes on"


@pytest.mark.parametrize("spoil", [tear_newest, flip_in_newest])
def test_the_newest_checkpoint_is_spoilt(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    for step in (1, 2):
        folder = tmp_path / f"step-00000{step}"
        folder.mkdir()
        (folder / "small").write_bytes(b"x")
        (folder / "large").write_bytes(bytes(1000))
    assert spoil(tmp_path) == tmp_path / "step-000002" / "large"
    assert (tmp_path / "step-000002" / "large").read_bytes() != bytes(1000)
    assert (tmp_path / "step-000001" / "large").read_bytes() == bytes(1000)
    with pytest.raises(LabError, match="holds no checkpoint yet"):
        spoil(tmp_path / "none")
