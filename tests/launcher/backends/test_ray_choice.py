"""Which Ray a run goes over, by what is asked for, what the environment names, and what runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import OWN_RAY, RayChoice, Surroundings, choose_ray, joining, surroundings
from dougong.launcher.backends.ray_processes import LocalNode

ONE = LocalNode("a1", "10.0.0.1:6379", "/tmp/ray")
OTHER = LocalNode("b2", "10.0.0.9:6380", "/tmp/other")
A_RUNS_OWN = LocalNode("c3", "127.0.0.1:41111", "/tmp/dougong-ray-x7")


def around(named: str = "", *nodes: LocalNode, is_job: bool = False, run: Path | None = None) -> Surroundings:
    def here() -> list[LocalNode]:
        return list(nodes)

    return Surroundings(named, is_job, here, run)


def test_without_an_address_a_run_has_a_ray_of_its_own_whatever_runs_here() -> None:
    assert choose_ray(None, around("", ONE, OTHER)) == OWN_RAY == RayChoice()
    assert choose_ray(None, around("local", ONE)) == OWN_RAY
    assert choose_ray("local", around("", ONE)) == OWN_RAY == choose_ray("local", around("local", ONE))


def test_what_is_typed_is_joined_and_needs_no_word() -> None:
    assert choose_ray("10.0.0.1:6379", around()) == joining("10.0.0.1:6379")
    assert choose_ray("10.0.0.1:6379", around("10.0.0.1:6379")) == joining("10.0.0.1:6379")
    assert choose_ray("[fd00::4]:6379", around()).address == "[fd00::4]:6379"


def test_what_ray_address_names_is_joined_and_told() -> None:
    chosen = choose_ray(None, around("10.0.0.1:6379"))
    assert (chosen.address, chosen.origin) == ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379")
    assert chosen.note == (
        "joins the Ray cluster 10.0.0.1:6379, which RAY_ADDRESS names (`--address local`: a Ray of the run's own)"
    )
    assert chosen.or_own == ", or `--address local` for a Ray of the run's own"
    assert joining("10.0.0.1:6379").or_own == ""


def test_a_run_that_goes_on_joins_the_cluster_that_it_was_on() -> None:
    """It began a Ray of its own on one machine, without a word, and put all workers there."""
    before = Surroundings(before="10.0.0.1:6379", nodes=lambda: [])
    chosen = choose_ray(None, before)
    assert (chosen.address, chosen.origin) == ("10.0.0.1:6379", "the run's record names the Ray cluster 10.0.0.1:6379")
    assert chosen.note == ("joins the Ray cluster 10.0.0.1:6379 as before (`--address local`: a Ray of the run's own)")
    assert chosen.or_own == ", or `--address local` for a Ray of the run's own"
    assert choose_ray("local", before) == OWN_RAY
    assert choose_ray("10.0.0.9:6379", before).address == "10.0.0.9:6379"
    named = Surroundings("10.0.0.5:6379", nodes=lambda: [], before="10.0.0.1:6379")
    assert choose_ray(None, named).address == "10.0.0.5:6379"


def test_a_submitted_job_says_that_it_is_one() -> None:
    chosen = choose_ray(None, around("10.0.0.1:6379", is_job=True))
    assert chosen.address == "10.0.0.1:6379"
    assert chosen.note == "joins the Ray cluster 10.0.0.1:6379, to which this job was submitted"


@pytest.mark.parametrize(
    ("asked", "named", "note"),
    [
        ("local", "10.0.0.1:6379", "takes a Ray of the run's own, as --address says, not RAY_ADDRESS=10.0.0.1:6379"),
        ("a:1", "b:1", "takes the Ray cluster at a:1, as --address says, not RAY_ADDRESS=b:1"),
        ("a:1", "http://a:8265", "takes the Ray cluster at a:1, as --address says, not RAY_ADDRESS=http://a:8265"),
    ],
)
def test_what_is_typed_goes_before_the_environment_and_says_so(asked: str, named: str, note: str) -> None:
    chosen = choose_ray(asked, around(named))
    assert chosen.address == (None if asked == "local" else asked)
    assert chosen.note == note


def test_auto_is_the_cluster_of_this_machine() -> None:
    chosen = choose_ray("auto", around("", ONE, A_RUNS_OWN))
    assert (chosen.address, chosen.note) == ("10.0.0.1:6379", "joins the Ray cluster 10.0.0.1:6379")
    assert choose_ray(None, around("auto", ONE)).address == "10.0.0.1:6379"
    assert choose_ray("auto", around("http://127.0.0.1:8265", ONE)).address == "10.0.0.1:6379"
    assert choose_ray("auto", around("10.0.0.7:6379", ONE)).address == "10.0.0.7:6379"  # as Ray does


def test_a_loopback_is_recorded_as_others_may_type_it() -> None:
    for asked in ("localhost:6379", "127.0.0.1:6379"):
        assert choose_ray(asked, around("", ONE, OTHER)).address == "10.0.0.1:6379"
    assert choose_ray("127.0.0.1:41111", around("", A_RUNS_OWN)).address == "127.0.0.1:41111"


NO_RAY = r"--address auto: no Ray runs on this machine \(.+\); type this on a node of the cluster, or begin one by"


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda: choose_ray("auto", around()), NO_RAY),
        (lambda: choose_ray("auto", around("", A_RUNS_OWN)), NO_RAY),
        (
            lambda: choose_ray("auto", around("", ONE, OTHER)),
            r"several Ray clusters run on this machine .*`--address 10\.0\.0\.1:6379` or `--address 10\.0\.0\.9:6380`$",
        ),
        (lambda: choose_ray("nowhere", around()), r"^--address nowhere: not HOST:PORT; `ray start --head` prints it"),
        (lambda: choose_ray("host:port", around()), "not HOST:PORT"),
        (lambda: choose_ray(None, around("nowhere")), r"^RAY_ADDRESS=nowhere: not HOST:PORT; .* `--address local` for"),
        (lambda: choose_ray(None, around("auto")), r"^RAY_ADDRESS=auto: no Ray runs .* `--address local` for"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_is_one_sentence(choose: Callable[[], RayChoice], words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        choose()
    assert "\n" not in str(caught.value)


def test_another_port_of_a_cluster_is_told_with_the_right_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/dougong", "run", "job.yaml", "--address", "ray://10.0.0.1:10001"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").touch()
    submit = f"-- dougong run {tmp_path}/job.yaml --run-dir {tmp_path}/runs/a`"
    with pytest.raises(LaunchError) as caught:
        choose_ray("ray://10.0.0.1:10001", around(run=Path("runs/a")))
    assert str(caught.value) == (
        "--address ray://10.0.0.1:10001: the port of Ray Client, which starts no agents; on a node of the cluster use "
        "`--address 10.0.0.1:6379` (the address that `ray start --head` printed), elsewhere `ray job submit --address "
        f"http://10.0.0.1:8265 {submit}"
    )
    with pytest.raises(LaunchError) as caught:
        choose_ray(None, around("https://dash:443", run=Path("runs/a")))
    told = str(caught.value)
    assert told.startswith("RAY_ADDRESS=https://dash:443: the address of a dashboard, for `ray job`; on a node of the")
    assert f"`ray job submit --address https://dash:443 {submit}, or `--address local`" in told


def test_the_surroundings_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", " 10.0.0.1:6379 ")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert (surroundings().named, surroundings().is_job) == ("10.0.0.1:6379", False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("RAY_ADDRESS")
    assert (surroundings().named, surroundings().is_job) == ("", True)
