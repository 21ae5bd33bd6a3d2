"""Who holds a node's devices, from tables as Ray gives them. Over a real Ray: tests/lab/test_places.py."""

from __future__ import annotations

from dougong.launcher.backends.ray_holders import Holders

JOBS = {"01000000": "`python train.py` on 10.0.0.1", "02000000": "`dougong run job.yaml` on 10.0.0.2"}


def test_groups_are_told_by_their_drivers_command_and_our_own_are_not() -> None:
    groups = {"n1": {"01000000": {"NPU": 2.0, "CPU": 1.0}, "": {"NPU": 1.0}, "02000000": {"NPU": 1.0}}}
    holders = Holders(groups, {}, JOBS)
    assert holders.of("n1", {"NPU": 4.0}) == (
        "`python train.py` on 10.0.0.1 (2 NPU)",
        "`dougong run job.yaml` on 10.0.0.2 (1 NPU)",
    )
    assert holders.of("n2", {"NPU": 0.0}) == ()


def test_what_no_group_holds_is_of_one_whose_actors_are_there() -> None:
    holders = Holders({"n1": {"01000000": {"GPU": 1.0}}}, {"n1": frozenset({"01000000", "02000000"})}, JOBS)
    assert holders.of("n1", {"GPU": 3.0}) == (
        "`python train.py` on 10.0.0.1 (1 GPU)",
        "`dougong run job.yaml` on 10.0.0.2 (2 GPU)",
    )
    assert holders.of("n2", {"GPU": 1.0}) == ("other jobs (1 GPU)",)
    assert Holders({"n1": {"09": {"GPU": 1.0}}}).of("n1", {"GPU": 1.0}) == ("Ray's job 09 (1 GPU)",)
