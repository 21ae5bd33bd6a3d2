"""Where values were written, and where a mistake is shown."""

from __future__ import annotations

from dougong.job.yaml import locations
from dougong.job.yaml.provenance import Source, dotted, printable

TEXT = """\
batch:
  lanes: 2
steps: 5
"""


def source() -> Source:
    found = Source("job.yaml")
    found.take(locations.read(TEXT))
    return found


def test_a_value_of_the_file() -> None:
    assert source().origin(("batch", "lanes")) == "job.yaml:2"
    assert source().origin(("seed",)) == "default"


def test_a_mistake_in_a_value_in_a_key_and_in_what_is_not_there() -> None:
    found = source()
    found.blame(("steps",), "is wrong")
    found.blame(("batch", "lanes"), "unknown key", is_key=True)
    found.blame(("batch", "microbatches"), "missing")
    assert [str(mistake) for mistake in found.mistakes] == [
        "job.yaml:3:8: steps: is wrong",
        "job.yaml:2:3: batch.lanes: unknown key",
        "job.yaml:2:3: batch.microbatches: missing",
    ]


def test_nothing_is_reported_twice() -> None:
    found = source()
    found.blame(("steps",), "is wrong")
    found.blame(("steps",), "is missing, too")
    assert len(found.mistakes) == 1


def test_an_override_takes_the_place_of_a_value_and_of_all_inside_it() -> None:
    found = source()
    found.override(("batch",), locations.read("{lanes: no}"), "batch={lanes: no}")
    assert found.origin(("batch", "lanes")) == "-o batch={lanes: no}"
    assert found.is_override(("batch", "lanes")) and not found.is_override(("steps",))
    assert found.yes_no == [("batch", "lanes")]
    found.override(("batch", "lanes"), locations.read("3"), "batch.lanes=3")
    assert found.yes_no == []


def test_a_mistake_in_an_override_comes_after_those_of_the_file() -> None:
    found = source()
    found.refuse("x", (), "an override is KEY=VALUE")
    found.blame(("steps",), "is wrong")
    ordered = sorted(found.mistakes, key=lambda mistake: mistake.order)
    assert [mistake.place for mistake in ordered] == ["job.yaml:3:8", "-o x"]


def test_what_would_upset_a_terminal_is_escaped() -> None:
    assert dotted(("a", 0, "b\x1b")) == "a.0.b\\x1b"
    assert printable("é") == "é"
