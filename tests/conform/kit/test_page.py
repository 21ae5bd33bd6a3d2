"""The page says what is at fault first, and all of the rest; it needs nothing beside itself."""

from __future__ import annotations

import re

import pytest
from dougong.conform.kit.page import groups_of, operator_rows, render
from tests.conform.kit.found import found, operator


def test_what_is_to_be_mended_stands_first() -> None:
    page = render(found())
    banner = page[page.index('<div class="banner') : page.index('<div class="cards">')]
    assert "<code>aten::mm</code> (mm): float32: other bits, and 1 more" in banner
    assert "segment 1 is the first to depart" in banner and "aten::linear" not in banner
    assert "follows from aten::mm" in page and '<span class="pill unsound">unsound</span>' in page


def test_a_sound_device_is_said_to_be_sound() -> None:
    page = render(found(is_sound=True))
    assert '<span class="pill sound">sound</span>' in page and "To be mended" not in page


@pytest.mark.parametrize("is_sound", [True, False])
def test_it_needs_nothing_beside_itself_and_escapes_names(is_sound: bool) -> None:
    page = render(found(is_sound))
    assert not re.search(r"<script|<link|https?://|@import|url\(", page)
    assert "copy &lt;there&gt;" in page and "copy <there>" not in page


def test_rows_of_operators() -> None:
    rows = {row.outcome.name: row for row in operator_rows(found())}
    assert set(rows) == {"silu", "norm", "mm", "linear"}
    (_, single), (_, half) = rows["mm"].errors
    assert half is None and single is not None
    assert (single.text, single.width, single.is_over) == ("1e-03 of 1e-06", 100.0, True)
    (_, small), _ = rows["silu"].errors
    assert small is not None and not small.is_over and small.width == pytest.approx(10)


def test_groups_are_counted() -> None:
    counted = {row.name: (row.sound, row.unsound, row.not_run) for row in groups_of(found())}
    assert counted == {"copies": (1, 0, 0), "streams": (0, 0, 1), "operators": (2, 2, 0), "model": (0, 1, 0)}


def test_a_speed_has_its_spread_and_a_dash_its_reason() -> None:
    part = found().model_copy(update={"outcomes": (operator("silu"), operator("exp", speed=None))})
    page = render(part)
    assert re.search(r'1\.5× <span class="soft">1\.4–1\.8</span>', page)
    assert page.count('<span class="soft">–</span>') == 1 and "–: there is nothing plainer to compare it with" in page
