"""A job written out, one value a line."""

from __future__ import annotations

from dougong.job.yaml.render import lines_of, with_comments

VALUES = {
    "job": "a",
    "model": {"family": "x", "config": {}},
    "islands": [{"name": "east", "node": None}, {"name": "west", "node": "10"}],
    "betas": [0.9, 0.95],
    "drill": [],
}


def test_sections_and_lists_of_them_are_blocks_and_the_rest_is_one_line() -> None:
    assert [line.text for line in lines_of(VALUES)] == [
        "job: a",
        "model:",
        "  family: x",
        "  config: {}",
        "islands:",
        "  - name: east",
        "    node: null",
        "  - name: west",
        "    node: '10'",
        "betas: [0.9, 0.95]",
        "drill: []",
    ]


def test_every_value_has_its_path() -> None:
    paths = [line.path for line in lines_of(VALUES)]
    assert paths[1] is None and paths[4] is None
    assert paths[2] == ("model", "family") and paths[7] == ("islands", 1, "name")


def test_comments_stand_in_one_column() -> None:
    lines = list(lines_of(VALUES))
    texts = list(with_comments(lines, {"job": "default", "islands.1.node": "FILE:7"}))
    commented = [text for text in texts if "#" in text]
    assert commented == ["job: a              # default", "    node: '10'      # FILE:7"]
    assert list(with_comments(lines, {})) == [line.text for line in lines]
