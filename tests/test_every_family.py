"""The table of all families: what its tool finds of one, what it tells, and that its page is what it writes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.families import LINES, PAGE, ROOT, SAME, Row, look_at, page_of, read_rows, write_rows
from dougong.job.families import Families, read_families
from tests.families import FAMILIES, FURTHER

ROUNDED = ("llama4_text",)
"""Its own block multiplies all rows of all experts in one batched product, whose kernel may round otherwise than that
of an expert's own rows."""


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_a_family_has_the_same_bits_on_three_layouts_and_a_folder_there_and_back(family: str) -> None:
    row = look_at(family)
    assert (row.refused, row.together, row.apart, row.folder, row.fused) == ("", *[SAME] * 4)
    assert row.fp8.startswith(SAME), row.fp8
    is_rounded = family in ROUNDED and float(row.first.rpartition(" ")[2]) < 1e-6
    assert row.first.startswith(SAME) or is_rounded, row.first
    assert row.places in ("", SAME)


def test_the_command_tells_why_a_family_is_not_trained() -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "families.py"), "--one", "jetmoe"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    assert "(JetMoeMoA) keeps its experts as separate modules" in done.stdout


def test_a_row_is_right_where_it_is_refused_or_the_same_everywhere() -> None:
    good = Row("a", together=SAME, apart=SAME, folder=SAME, fused=SAME, fp8=SAME)
    assert good.is_right and Row("a", refused="no experts").is_right
    assert not Row("a", together=SAME, apart="other losses", folder=SAME).is_right
    assert not dataclasses.replace(good, fp8="2 tensors are others").is_right
    assert not Row("a", together="not ended within 240 s").is_right


def test_rows_are_read_back_and_refusals_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = {
        "b": Row("b", together=SAME, apart=SAME, first=SAME, folder=SAME, fused=SAME, fp8=SAME, balance=("bias",)),
        "a": Row("a", refused="its experts | are apart"),
    }
    write_rows(rows, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == rows
    known = Families("1", {}, {"c": "is called with one argument"}, frozenset(), frozenset())
    lines = page_of(known, rows).splitlines()
    assert "| b | equal | equal | equal | no plan | bias | equal | equal | equal |" in lines
    assert "| a | its experts   are apart |" in lines and "| c | is called with one argument |" in lines


def test_the_page_is_what_the_tool_writes() -> None:
    rows = read_rows(LINES)
    known = read_families()
    assert PAGE.read_text(encoding="utf-8") == page_of(known, rows)
    assert set(known.with_experts) <= set(rows), "`make families` looks at all of them"
    assert [family for family, row in rows.items() if not row.is_right] == []


def test_a_family_that_there_is_not_leaves_the_table_as_it_is() -> None:
    before = LINES.read_bytes(), PAGE.read_bytes()
    words = [sys.executable, str(ROOT / "benchmarks" / "families.py"), "--only", "nosuch"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 1 and "no family with experts of transformers" in done.stderr
    assert (LINES.read_bytes(), PAGE.read_bytes()) == before
