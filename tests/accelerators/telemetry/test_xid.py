"""NVIDIA's codes, held against the catalogue (docs.nvidia.com, "Analyzing Xid Errors with the Xid Catalog")."""

import pytest
from dougong.accelerators.telemetry.xid import CATALOGUE, xid


@pytest.mark.parametrize(
    ("number", "consequence"),
    [
        (13, "program"),
        (31, "program"),
        (43, "program"),
        (45, "program"),
        (48, "reset"),
        (63, "note"),
        (64, "reset"),
        (74, "reset"),
        (79, "give_up"),
        (92, "note"),
        (94, "worker"),
        (95, "reset"),
        (119, "reset"),
    ],
)
def test_what_follows_from_a_code(number: int, consequence: str) -> None:
    assert xid(number).consequence == consequence


def test_a_code_says_itself_in_words() -> None:
    assert str(xid(79)) == "Xid 79 (the GPU has fallen off the bus)"
    assert (str(xid(999)), xid(999).consequence) == ("Xid 999", "note")
    assert all(fault.meaning and fault.code == f"Xid {number}" for number, fault in CATALOGUE.items())
