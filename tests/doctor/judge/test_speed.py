"""Judgements of speed and bits, from made figures."""

from __future__ import annotations

import errno

import pytest
from dougong.doctor.facts import Post, StoreAnswer
from dougong.doctor.judge.speed import check_bits, check_matmul, check_memory, check_storage
from tests.doctor.made import sound, speed, title, with_speeds


@pytest.mark.parametrize("check", [check_matmul, check_memory, check_bits, check_storage])
def test_like_nodes_are_sound_and_nothing_is_measured_in_the_quick_half(check) -> None:  # type: ignore[no-untyped-def]
    assert check(sound()).grade == "sound"
    assert check(sound(quick=True)).grade == "not run"
    assert check(sound(1)).grade == "sound"


def test_a_slow_node_is_named_with_its_part_of_a_processor_and_what_helps() -> None:
    found = check_matmul(with_speeds(sound(), {"n1": speed(matmul=2e10, cpu_share=0.2)}))
    (symptom,) = found.symptoms
    assert found.named == (title(1),)
    assert symptom.words == (
        "matmul of node1 (10.0.0.2): 0.02 TFLOP/s (with 0.20 of a processor), the others 0.1 TFLOP/s"
    )
    assert "cpu.max" in symptom.remedy
    cold = check_matmul(with_speeds(sound(), {"n1": speed(matmul=2e10)}))
    assert "clock rate" in cold.symptoms[0].remedy
    device = speed(matmul=2e10, accelerator="cuda", name="H100", cpu_share=None)
    others = {"n0": speed(accelerator="cuda", name="H100"), "n2": speed(accelerator="cuda", name="H100")}
    named = check_matmul(with_speeds(sound(), {"n1": device, **others}))
    assert named.symptoms[0].words.startswith("matmul of cuda:0 of node1 (10.0.0.2)")
    assert named.named == (title(1),)


def test_of_two_nodes_nobody_is_accused() -> None:
    found = check_memory(with_speeds(sound(2), {"n1": speed(memory=1e9)}))
    assert found.grade == "failed" and found.named == ()
    assert "it cannot be said which is at fault" in found.symptoms[0].words


def test_unlike_devices_are_not_compared_and_one_without_peers_is_told() -> None:
    found = check_matmul(with_speeds(sound(), {"n1": speed(matmul=1e9, name="Atom")}))
    assert found.grade == "sound"
    assert "node1 (10.0.0.2) has nobody alike to be compared with" in found.remarks


def test_a_device_that_could_not_be_measured_is_a_finding() -> None:
    broken = speed(problem="its process ended: SIGSEGV", fingerprint={})
    found = check_matmul(with_speeds(sound(), {"n2": broken}))
    assert found.named == (title(2),) and "SIGSEGV" in found.symptoms[0].words
    assert check_matmul(sound(speeds={})).grade == "not run"


def test_other_bits_are_named_with_the_probes_and_of_two_nobody_is() -> None:
    found = check_bits(with_speeds(sound(), {"n2": speed(bits="bb")}))
    assert found.named == (title(2),) and "1 of 1 probe differ: product" in found.symptoms[0].words
    two = check_bits(with_speeds(sound(2), {"n1": speed(bits="bb")}))
    assert two.grade == "failed" and two.named == ()
    assert "which is right cannot be said" in two.symptoms[0].words
    unstable = check_bits(with_speeds(sound(), {name: speed(bits="unstable") for name in ("n0", "n1", "n2")}))
    assert unstable.named == (title(0), title(1), title(2))


def test_storage_that_is_slow_or_refuses_is_named() -> None:
    found = sound()
    found.stores["n1"] = StoreAnswer(1e7, 1e7)
    assert check_storage(found).named == (title(1),)
    found.stores["n1"] = StoreAnswer(problem="/shared: Read-only file system", number=errno.EROFS)
    (symptom,) = check_storage(found).symptoms
    assert "Read-only" in symptom.words and symptom.remedy.startswith("mount it there for writing, or choose")


def test_devices_that_others_hold_are_told_as_not_measured() -> None:
    seen = sound()
    seen.demand.posts["n1"] = (*seen.demand.posts["n1"], Post("cuda", "cuda", 4, num_devices=4))
    assert "cuda of node1 (10.0.0.2): held by others, so not measured" in check_matmul(seen).remarks
