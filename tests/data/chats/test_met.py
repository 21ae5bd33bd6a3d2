"""What was met in chats, kept with places by the file's number."""

from __future__ import annotations

from pathlib import Path

from dougong.data.chats.met import HEADER, SPLIT, UNREAD, Met, named, numbered, read_met

FILES = [Path("a.jsonl"), Path("b: 1.jsonl")]


def test_remarks_are_the_same_after_they_were_kept(tmp_path: Path) -> None:
    met = Met()
    for kind, line, example in ((SPLIT, 3, ""), (HEADER, 4, "'<a>'"), (UNREAD + "id", 5, ""), (SPLIT, 6, "")):
        met.add(kind, f"b: 1.jsonl: line {line}", example)
    met.write(tmp_path / "met.json", FILES)
    assert read_met(tmp_path / "met.json", FILES).remarks("x") == met.remarks("x")
    later = read_met(tmp_path / "met.json", [Path("c"), Path("d.jsonl")]).remarks("x")
    assert later.notes[0].startswith("x: 2 chats are several sequences each (the first: d.jsonl: line 3)")
    unread, header = later.warnings
    assert "`id` (1 rows, the first: d.jsonl: line 5)" in unread
    assert "('<a>') is learnt as if the model had to say it (1 turns, the first: d.jsonl: line 4)" in header


def test_places_are_numbered_by_their_files() -> None:
    for place, number in (
        ("a.jsonl: line 1", "0: line 1"),
        ("b: 1.jsonl: line 2, 9 tokens", "1: line 2, 9 tokens"),
        ("", ""),
    ):
        assert numbered(place, FILES) == number and named(number, FILES) == place
