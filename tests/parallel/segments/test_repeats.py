"""What has come of layers that ran again is looked at once, and the layers that came out otherwise are named."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.segments.repeats import LayerRepeats


def test_nothing_to_look_at_and_nothing_wrong_pass() -> None:
    repeats = LayerRepeats()
    repeats.refuse_others()
    repeats.add("layers.0", torch.tensor(False))
    repeats.refuse_others()


@pytest.mark.parametrize(
    ("others", "words"), [([1], r"^layers\.1 is"), ([2, 1, 2], r"^layers\.2 \(and 1 more layers\) is")]
)
def test_each_layer_that_differs_is_counted_once_and_told_once(others: list[int], words: str) -> None:
    repeats = LayerRepeats()
    repeats.add("layers.0", torch.tensor(False))
    for number in others:
        repeats.add(f"layers.{number}", torch.tensor(True))
    with pytest.raises(ModelError, match=words + ".*other bits.*determinism: layout or run.*set recompute: none"):
        repeats.refuse_others()
    repeats.refuse_others()
