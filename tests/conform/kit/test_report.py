"""What is kept is read again; a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.conform.kit.crew import Examination
from dougong.conform.kit.report import PAGE, examine, keep, read
from dougong.conform.record import FILE
from dougong.errors import DeviceError, ModelError, RecordError
from tests.conform.kit.found import found


def test_a_report_is_kept_and_read_again(tmp_path: Path) -> None:
    page = keep(found(), tmp_path / "a" / "b")
    assert page.name == PAGE and "<html" in page.read_text()
    assert read(page.parent) == found()


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "more": 2}'])
def test_a_damaged_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RecordError, match=f"{FILE}.*run `dougong conform` again"):
        read(tmp_path)


def test_bad_input_is_refused_before_anything_is_tried() -> None:
    def fail(told: object) -> None:
        raise AssertionError(told)

    with pytest.raises(DeviceError, match="accelerator gpu: not known"):
        examine(Examination("gpu"), fail)
    with pytest.raises(ModelError, match="did you mean qwen3_moe"):
        examine(Examination("cpu", "qwen3_mo"), fail)
