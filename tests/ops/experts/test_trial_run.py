"""A trial run tells operators that compute alike from those that do not."""

from __future__ import annotations

import torch
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert, TiledSwiGLU
from dougong.ops.experts.trial_run import TWO_EXPERTS, agree, draw_wave, is_sound, run

SHAPES = {"gate_up_proj": (32, 64), "down_proj": (64, 16)}
CPU = torch.device("cpu")


class LostGradient(ByBlock):
    """Right answers and right gradients of rows, but nobody adds the weights'."""

    def backward(self, dy_RH, saved, tensors, grads, dx_RH, y_RH=None):  # type: ignore[no-untyped-def]
        super().backward(dy_RH, saved, tensors, grads, dx_RH, y_RH)
        return lambda: None


class BitsOfNeighbours(ByBlock):
    """Right up to rounding; but the last bits of an answer follow from the number of rows."""

    def forward(self, x_RH, blocks, tensors, out_RH):  # type: ignore[no-untyped-def]
        saved = super().forward(x_RH, blocks, tensors, out_RH)
        out_RH.mul_(1 + len(x_RH) * 2**-20)
        return saved


class OtherOutputsAgain(ByBlock):
    """Right, but the outputs of its backward are not its forward's to the last bit."""

    def backward(self, dy_RH, saved, tensors, grads, dx_RH, y_RH=None):  # type: ignore[no-untyped-def]
        rest = super().backward(dy_RH, saved, tensors, grads, dx_RH, y_RH)
        y_RH.mul_(1 + 2**-20)
        return rest


def test_a_wave_is_the_same_every_time() -> None:
    one, other = (draw_wave(TWO_EXPERTS, SHAPES, CPU) for _ in range(2))
    assert torch.equal(one.x_RH, other.x_RH) and one.x_RH.shape == (48, 64)
    assert {e: {n: t.shape for n, t in of.items()} for e, of in one.tensors.items()} == {0: SHAPES, 1: SHAPES}
    assert all(torch.equal(a, b) for a, b in zip(run(plain(), one), run(plain(), other), strict=True))


def plain() -> ByBlock:
    return ByBlock(SwiGLUExpert())


def test_two_forms_of_the_same_agree() -> None:
    assert agree(plain(), TiledSwiGLU(16), SHAPES, CPU, TWO_EXPERTS)


def test_weight_gradients_are_compared_too() -> None:
    assert not agree(plain(), LostGradient(SwiGLUExpert()), SHAPES, CPU)


def test_bits_must_not_follow_from_another_experts_rows() -> None:
    assert is_sound(plain(), SHAPES, CPU)
    assert not is_sound(BitsOfNeighbours(SwiGLUExpert()), SHAPES, CPU)
    assert not is_sound(OtherOutputsAgain(SwiGLUExpert()), SHAPES, CPU)
    assert agree(plain(), BitsOfNeighbours(SwiGLUExpert()), SHAPES, CPU, TWO_EXPERTS)
