"""Devices that a run uses no more."""

from dougong.fault.quarantine import Quarantine, QuarantinedDevice

FIRST = QuarantinedDevice("cuda", "GPU-1", "node1", "Xid 79")
SECOND = QuarantinedDevice("npu", "NPU-0", "node1", "80E18402")
THIRD = QuarantinedDevice("npu", "NPU-0", "node2", "80E18402")


def test_each_machine_has_its_own() -> None:
    """A key names a device among those of its machine."""
    quarantine = Quarantine.of((FIRST, SECOND, THIRD))
    assert quarantine.all == (FIRST, SECOND, THIRD)
    assert quarantine.on("node1", "npu") == ("NPU-0",)
    assert quarantine.on("node2", "cuda") == ()
    assert str(FIRST) == "GPU-1 on node1 (Xid 79)"


def test_one_that_is_lifted_is_used_again_until_it_fails_again() -> None:
    quarantine = Quarantine.of((FIRST, SECOND), lifted=("GPU-1",))
    assert quarantine.all == (SECOND,)
    quarantine.add(FIRST)
    quarantine.add(FIRST)
    assert quarantine.all == (SECOND, FIRST)
