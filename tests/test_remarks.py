"""Notes and warnings of several sources are told in their order."""

from dougong.remarks import Remarks


def test_remarks_add_up_in_order() -> None:
    both = Remarks(("a",), ("w",)) + Remarks() + Remarks(("b",), ("v",))
    assert both == Remarks(("a", "b"), ("w", "v"))
