"""The schema for editors and the page for people, both as fresh as the code."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
import yaml
from dougong.job.reference import fill, json_schema, tables
from tests.job.test_section import Cart
from tests.launcher.jobs import QUICKSTART, ROOT, SMALL

PAGE = ROOT / "docs" / "job-file.md"


def test_both_files_are_current() -> None:
    assert (ROOT / "schema" / "job.schema.json").read_text() == json_schema(), "run: python schema/update.py"
    assert fill(PAGE.read_text()) == PAGE.read_text(), "run: python schema/update.py"


def test_fill_refuses_a_page_without_its_marks() -> None:
    with pytest.raises(ValueError):
        fill("# A page\n")


def test_an_editor_accepts_what_we_accept() -> None:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    for text in (QUICKSTART.read_text(), SMALL):
        jsonschema.validate(yaml.safe_load(text), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "change",
    [{"steps": "60"}, {"steps": 0}, {"stepz": 3}, {"job": "a b"}, {"precision": "float16"}, {"islands": []},
     {"batch": {"lanez": 2}}, {"optimizer": {"betas": [0.9]}}, {"fault": None}, {"drill": [{"at_step": 1}]}],
    ids=str,
)  # fmt: skip
def test_an_editor_refuses_what_we_refuse(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(SMALL), **change}, json.loads(json_schema()))


def test_the_tables_hold_every_key() -> None:
    lines, schema = tables().splitlines(), json.loads(json_schema())
    assert "## `data.validation`" in lines
    assert "| `lanes` | whole number, above 0 | `1` | logical | stays | " in "\n".join(lines)
    keys = sum(len(part["properties"]) for part in (schema, *schema["$defs"].values()))
    assert sum(line.startswith("| `") for line in lines) == keys


def test_each_choice_has_a_table() -> None:
    lines = tables(Cart).splitlines()
    assert "## `shape`, name: round" in lines and "## `shape`, name: square" in lines
    assert "| `shape` | mapping | its defaults | logical | by its keys | the shape |" in lines
    assert "| `load` | whole number | `0` | logical | may change: it is put on anew | what it carries |" in lines
    assert "| `side` | number, at least 0 | `1.0` | physical | may change | of the square |" in lines
    assert "| `radius` | number, at least 0 | `1.0` | logical | stays | of the wheel |" in lines


def test_the_page_s_commands_run() -> None:
    lines = [line[2:] for line in PAGE.read_text().splitlines() if line.startswith("$ dougong ")]
    assert len(lines) == 3
    for line in lines:
        command = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr)


def test_a_number_s_bounds_are_told() -> None:
    page = PAGE.read_text()
    assert "| `agent_silence_s` | number, at least 4, at most 604800 or null |" in page
    assert "| `workers` | whole number, above 0 |" in page
