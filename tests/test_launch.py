"""docs/launch.md and examples/launch/, as far as they can be held against something without a scheduler. In the lab,
tests/lab/test_launch.py runs them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong import errors
from dougong.cli.main import load_command
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "examples" / "launch" / "slurm.sbatch"
RAYJOB = ROOT / "examples" / "launch" / "rayjob.yaml"


def test_the_shell_script_has_no_mistake_that_can_be_seen() -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def shell_blocks() -> list[str]:
    return re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_s_lines_have_no_mistake_that_can_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "lines.sh"
    file.write_text("#!/bin/bash\n" + "".join(shell_blocks()))
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, "--exclude=SC2034", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def rayjob() -> Any:
    return yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))


def test_the_rayjob_has_the_fields_of_one() -> None:
    schema = json.loads((ROOT / "tests" / "rayjob.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    mistakes = [error.message for error in Draft202012Validator(schema).iter_errors(rayjob())]
    assert not mistakes


def test_all_pods_see_the_run_and_have_it_save_before_they_go() -> None:
    spec = rayjob()["spec"]
    words = shlex.split(spec["entrypoint"])
    run = words[words.index("--run-dir") + 1]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert any(run.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
        stop = container["lifecycle"]["preStop"]["exec"]["command"]
        assert stop[:3] == ["dougong", "stop", run]
        assert int(stop[stop.index("--timeout") + 1]) < pod["terminationGracePeriodSeconds"]
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] in PAGE


def commands() -> list[list[str]]:
    """Every command of ours in the page and its examples: its words."""
    texts = [*shell_blocks(), SCRIPT.read_text(), f"{rayjob()['spec']['entrypoint']}\n"]
    texts.append(shlex.join(rayjob()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
                            ["lifecycle"]["preStop"]["exec"]["command"]))  # fmt: skip
    found = re.findall(r"\bdougong ((?:start|run|stop|resume) [^#|<&\n]*)", "\n".join(texts))
    return [shlex.split(words) for words in found]


def test_every_command_has_the_options_that_it_is_given() -> None:
    assert len(commands()) >= 5
    for name, *words in commands():
        known = {option for parameter in load_command(name).params for option in parameter.opts}
        given = {word for word in words if word.startswith("--")}
        assert given <= known, f"dougong {name} {words}"


@pytest.mark.parametrize("command", ["run", "resume", "start"])
def test_the_help_says_the_exit_statuses_of_the_page(command: str) -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (\w+)", PAGE, re.MULTILINE))
    assert set(rows) == {"0", "1", "2", "3", "130", "143", "129", "137"}
    text = load_command(command).help
    statuses = text[text.index("Exit status:") :]
    for status in set(rows) - {"137"}:  # a command that is killed says nothing
        assert re.search(rf"\b{status}\b", statuses), status


def test_no_error_ends_with_a_status_that_the_page_does_not_know() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DougongError)]
    assert {kind.exit_status for kind in kinds} == {1, 2, 3}


def test_what_the_page_links_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
