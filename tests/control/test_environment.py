"""What children and Ray find in their environment, and that ours is left as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.control import environment


def test_a_child_can_import_what_we_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    variables = environment.child_environment({"OMP_NUM_THREADS": "3"})
    code = "import only_here, os; print(only_here.ANSWER, os.environ['OMP_NUM_THREADS'])"
    told = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert told.stdout == "42 3\n"
    assert str(tmp_path) not in os.environ.get("PYTHONPATH", "")


@pytest.mark.parametrize(
    ("said", "program", "words"),
    [
        ("", "c++", None),
        ("sh", "sh", None),
        ("env sh", "env", "env sh"),
        ("/no/cache sh", "/no/cache", "/no/cache sh"),
    ],
)
def test_a_compiler_may_be_several_words(
    said: str, program: str, words: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch's builder calls what CXX says as one program."""
    monkeypatch.setenv("CXX", said)
    assert environment.chosen_compiler()[0] == program
    found = environment.compiling_environment(tmp_path, tmp_path)["CXX"]
    if words is None:
        assert found == said
    else:
        assert Path(found).read_text() == f'#!/bin/sh\nexec {words} "$@"\n'
    if program == "env":
        told = subprocess.run([found, "-c", 'echo "$1"', "x", "a b"], capture_output=True, text=True, check=True)
        assert told.stdout == "a b\n"


def test_a_compiler_whose_name_has_a_space_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "my c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert environment.chosen_compiler() == [str(compiler)]
    assert environment.compiling_environment(tmp_path, tmp_path)["CXX"] == str(compiler)


def test_variables_are_put_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TEST_OLD", "before")
    monkeypatch.delenv("DOUGONG_TEST_NEW", raising=False)
    monkeypatch.setenv("DOUGONG_TEST_AWAY", "before")
    changes = {"DOUGONG_TEST_OLD": "during", "DOUGONG_TEST_NEW": "during", "DOUGONG_TEST_AWAY": None}

    def fail_inside() -> None:
        with environment.temporary_variables(changes):
            assert os.environ["DOUGONG_TEST_OLD"] == os.environ["DOUGONG_TEST_NEW"] == "during"
            assert "DOUGONG_TEST_AWAY" not in os.environ
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert os.environ["DOUGONG_TEST_OLD"] == "before"
    assert os.environ["DOUGONG_TEST_AWAY"] == "before"
    assert "DOUGONG_TEST_NEW" not in os.environ


def test_workers_are_told_an_interface_and_short_waits_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_SOCKET_IFNAME", "RES_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    short = {"RES_OPTIONS": "timeout:1 attempts:1"}
    assert environment.network_variables({"NCCL_SOCKET_IFNAME": "=eth7"}) == {"NCCL_SOCKET_IFNAME": "=eth7", **short}
    assert environment.network_variables({}) == short
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("RES_OPTIONS", "rotate")
    assert environment.network_variables({"NCCL_SOCKET_IFNAME": "=eth7"}) == {}


@pytest.mark.parametrize(("value", "chosen"), [("", None), ("ib0", "ib0"), ("ib0,ib1", "ib0")])
def test_of_several_chosen_interfaces_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, value: str, chosen: str | None
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", value)
    assert environment.chosen_interface() == chosen


@pytest.mark.parametrize(("value", "given"), [("", None), ("20000-20100", "20000-20100")])
def test_ports_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, given: str | None) -> None:
    monkeypatch.setenv("DOUGONG_PORTS", value)
    assert environment.default_ports() == given


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_an_embedded_ray_gets_a_token_of_its_own(no_token: Path) -> None:
    first, second = environment.ray_variables(embedded=True), environment.ray_variables(embedded=True)
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(str(first["RAY_AUTH_TOKEN"])) >= 32
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("place", ["variable", "path", "home"])
def test_a_cluster_with_a_token_is_joined_with_it(no_token: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    assert "RAY_AUTH_MODE" not in environment.ray_variables(embedded=False)
    file = no_token / ".ray" / "auth_token"
    file.parent.mkdir()
    if place == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 32)
    elif place == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(no_token / "token"))
        (no_token / "token").write_text("t" * 32)
    else:
        file.write_text("t" * 32)
    variables = environment.ray_variables(embedded=False)
    assert variables["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in variables


def test_what_the_user_has_set_is_not_overridden(no_token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert "RAY_USAGE_STATS_ENABLED" not in environment.ray_variables(embedded=True)


def test_variables_of_libraries_are_found_by_how_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGTEST_ONE", "1")
    monkeypatch.setenv("DGTESTING_TWO", "2")
    assert environment.arithmetic_variables(["DGTEST_"]) == {"DGTEST_ONE": "1"}
    assert environment.arithmetic_variables(["DGTESTING_TWO", "DGTEST_"]) == {"DGTEST_ONE": "1", "DGTESTING_TWO": "2"}
    assert environment.arithmetic_variables([]) == {}


def test_an_embedded_ray_knows_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with environment.temporary_variables(environment.ray_variables(embedded=True)):
        assert not environment.named_ray_address() and not environment.is_submitted_to_ray()
    with environment.temporary_variables(environment.ray_variables(embedded=False)):
        assert environment.named_ray_address() == "10.0.0.1:6379" and environment.is_submitted_to_ray()


def test_a_variable_that_hides_all_devices_is_forgotten_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1")
    environment.show_devices(["CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES"])
    assert environment.read_visible_devices("CUDA_VISIBLE_DEVICES") is None
    assert environment.read_visible_devices("ASCEND_RT_VISIBLE_DEVICES") == "1"
