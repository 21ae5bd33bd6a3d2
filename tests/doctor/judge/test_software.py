"""Judgements of versions and source, from made facts."""

from __future__ import annotations

from dougong.control.handshake import PackageCode
from dougong.doctor.ask.observations import Viewpoint
from dougong.doctor.facts import HERE
from dougong.doctor.judge.software import check_source, check_versions
from dougong.planner.agreement import Software
from tests.doctor.made import CODE, VERSIONS, sound, title, with_facts

OLD = VERSIONS | {"transformers": "4.57.1"}
OTHER = {"dougong": PackageCode("/home/me/dougong", {"dougong": "aa", "dougong/ops": "cc"})}


def test_the_same_everywhere_is_sound_and_stands_in_one_line() -> None:
    found = check_versions(sound())
    assert found.grade == "sound" and len(found.evidence) == 1
    assert "triton" not in found.evidence[0], "what nobody has is not told"
    assert check_source(sound()).grade == "sound"


def test_an_old_package_names_its_node_and_what_to_install() -> None:
    found = check_versions(with_facts(sound(), "n2", versions=OLD))
    (symptom,) = found.symptoms
    assert found.named == (title(2),)
    assert symptom.words == "node2 (10.0.0.3) has transformers 4.57.1, the others 5.23.0"
    assert symptom.remedy.startswith("install transformers 5.23.0 there")


def test_the_command_s_own_machine_may_be_the_odd_one() -> None:
    seen = sound(place=Viewpoint("10.0.0.1", "token", Software("node0", OLD, CODE)))
    assert check_versions(seen).named == (HERE,)


def test_another_build_of_torch_where_nothing_is_computed_is_no_other_version() -> None:
    here = Software("node0", VERSIONS | {"torch": "2.13.0+cpu"}, CODE)
    assert check_versions(sound(place=Viewpoint("10.0.0.1", "token", here))).grade == "sound"


def test_where_nobody_has_a_majority_nobody_is_named() -> None:
    seen = with_facts(sound(), "n1", versions=OLD)
    seen = with_facts(seen, "n2", versions=OLD)
    found = check_versions(seen)  # two against node0 and the command's machine
    assert found.grade == "failed" and found.named == ()
    assert "which is right cannot be said" in found.symptoms[0].words


def test_a_python_and_a_package_that_only_one_has_are_told_with_other_advice() -> None:
    seen = with_facts(sound(), "n1", versions=VERSIONS | {"python": "3.12.1", "triton": "3.7"})
    found = check_versions(seen)
    assert [one.remedy.split()[0] for one in found.symptoms] == ["start", "install"]
    assert "everywhere, or nowhere" in found.symptoms[1].remedy


def test_other_source_is_named_with_its_folder_and_the_copy_that_mends_it() -> None:
    found = check_source(with_facts(sound(), "n2", code=OTHER))
    (symptom,) = found.symptoms
    assert found.named == (title(2),) and symptom.words.endswith("under the same version: dougong/ops")
    assert "rsync -a --delete --exclude=__pycache__" in symptom.remedy
    here = Software("node0", dict(VERSIONS), {"dougong": PackageCode("/opt/dougong", {"dougong": "zz"})})
    changed = check_source(sound(place=Viewpoint("10.0.0.1", "token", here)))
    assert changed.named == (HERE,) and "examine again" in changed.symptoms[0].remedy
    missing = check_source(with_facts(sound(), "n2", code={"dougong": PackageCode("", {})}))
    assert missing.symptoms[0].words == "node2 (10.0.0.3) has no dougong"


def test_other_source_under_another_version_is_told_once() -> None:
    seen = with_facts(sound(), "n2", versions=VERSIONS | {"dougong": "0.0.9"}, code=OTHER)
    assert check_source(seen).grade == "sound"
    assert check_versions(seen).named == (title(2),)
