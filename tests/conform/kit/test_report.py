"""What is kept is read again; a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.conform.kit.crew import Examination, Told
from dougong.conform.kit.report import CUT_SHORT_PAGE, PAGE, examine, keep, read
from dougong.conform.record import CUT_SHORT_FILE, FILE, CheckOutcome, Conformance
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


def test_a_report_that_was_cut_short_lies_beside_a_whole_one_until_the_next(tmp_path: Path) -> None:
    part = found().model_copy(update={"cut_short": "operators: mm"})
    keep(found(is_sound=True), tmp_path)
    page = keep(part, tmp_path)
    assert page.name == CUT_SHORT_PAGE and "Cut short at operators: mm" in page.read_text()
    assert read(tmp_path) == found(is_sound=True)
    assert Conformance.model_validate_json((tmp_path / CUT_SHORT_FILE).read_text()) == part
    keep(found(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PAGE, FILE]


def test_who_is_interrupted_has_what_was_over() -> None:
    over: list[CheckOutcome] = []

    def interrupt(told: Told) -> None:
        if isinstance(told, CheckOutcome):
            over.append(told)
        elif len(over) == 3:
            raise KeyboardInterrupt

    part = examine(Examination("cpu"), interrupt)
    assert part.outcomes == tuple(over) and len(over) == 3
    assert part.cut_short.startswith(f"{over[0].group}: ") and not part.is_sound


def test_bad_input_is_refused_before_anything_is_tried() -> None:
    def fail(told: object) -> None:
        raise AssertionError(told)

    with pytest.raises(DeviceError, match="accelerator gpu: not known"):
        examine(Examination("gpu"), fail)
    with pytest.raises(ModelError, match="did you mean 'qwen3_moe'"):
        examine(Examination("cpu", "qwen3_mo"), fail)
