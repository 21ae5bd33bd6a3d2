"""Pieces of large tensors: all of a tensor, in order, by its shape alone."""

from __future__ import annotations

import itertools
import math

import pytest
from dougong.job.optimizers.adamw import ADAMW
from dougong.parallel.dense.buckets import ALIGNMENT
from dougong.parallel.pieces import (
    PIECE_NUMEL,
    OwnedPiece,
    owned_specs,
    owners_of,
    piece_named,
    pieces_of,
    tensor_of,
)
from dougong.parallel.plan import TensorSpec

EMBEDDING = (129280, 7168)
"""DeepSeek-V3's."""


def only_vectors(name: str, shape: tuple[int, ...]) -> bool:
    """What Muon would declare, which updates embedding and head as AdamW does, and matrices as a whole."""
    return len(shape) != 2 or "embed" in name or "lm_head" in name


def bounds(shape: tuple[int, ...], name: str = "model.embed_tokens.weight", *, trainable: bool = True) -> list[int]:
    """Where the pieces of a tensor begin, and the end of the last; they leave nothing out."""
    pieces = pieces_of(TensorSpec(name, shape, trainable), ADAMW.is_elementwise)
    assert {piece.tensor for piece in pieces} == {name}
    assert all(before.end == after.begin for before, after in itertools.pairwise(pieces))
    assert sum(piece.numel for piece in pieces) == math.prod(shape)
    return [pieces[0].begin, *(piece.end for piece in pieces)]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 7), (4096, 4096), (1 << 24,), (1 << 12, 1 << 6, 1 << 6)])
def test_a_tensor_of_no_more_than_a_piece_is_one(shape: tuple[int, ...]) -> None:
    assert bounds(shape) == [0, math.prod(shape)]


def test_a_larger_one_is_cut_at_fixed_places() -> None:
    assert bounds((4096, 4097)) == [0, 1 << 24, 4096 * 4097]
    assert bounds(((1 << 24) + 1,)) == [0, 1 << 24, (1 << 24) + 1]
    assert bounds((3, 1 << 24)) == [0, 1 << 24, 2 << 24, 3 << 24]
    found = bounds(EMBEDDING)
    assert len(found) - 1 == 56 and found[1:3] == [1 << 24, 2 << 24]


def test_every_piece_begins_where_a_tensor_may() -> None:
    """Not only for the sake of addresses: vectors of an update are then those of the whole tensor."""
    assert PIECE_NUMEL % ALIGNMENT == 0
    assert all(begin % ALIGNMENT == 0 for begin in bounds((7001, 9973))[:-1])


def test_what_is_not_trained_stays_whole() -> None:
    assert bounds(EMBEDDING, trainable=False) == [0, math.prod(EMBEDDING)]


def test_what_is_updated_as_a_whole_stays_whole() -> None:
    names = {"model.embed_tokens.weight": 56, "lm_head.weight": 56, "model.layers.0.self_attn.o_proj.weight": 1}
    for name, num_pieces in names.items():
        assert len(pieces_of(TensorSpec(name, EMBEDDING, True), only_vectors)) == num_pieces
    whole = TensorSpec("model.layers.0.self_attn.o_proj.weight", (7168, 16384), True)
    assert pieces_of(whole, only_vectors) == (OwnedPiece(whole.name, 0, 7168 * 16384),)
    assert len(pieces_of(whole, ADAMW.is_elementwise)) == 7


def test_what_files_have_in_another_form_stays_whole() -> None:
    stored = TensorSpec("w", EMBEDDING, trainable=True, is_stored_alike=False)
    assert len(pieces_of(stored, ADAMW.is_elementwise)) == 1


@pytest.mark.parametrize("tensor", ["w", "model.layers.0.mlp.w[2]", "a[b", "x[1:2]"])
def test_a_pieces_name_says_which_it_is(tensor: str) -> None:
    piece = OwnedPiece(tensor, 16, 48)
    assert piece_named(piece.name) == piece and tensor_of(piece.name) == tensor


@pytest.mark.parametrize(
    "name", ["w", "experts.down_proj[3]", "w[1:]", "w[:2]", "w[1:2]x", "[1:2]", "w[1:2:3]", "w[-1:2]"]
)
def test_other_names_are_those_of_whole_tensors(name: str) -> None:
    assert piece_named(name) is None and tensor_of(name) == name


def test_what_is_owned_is_as_large_as_the_tensors() -> None:
    tensors = (TensorSpec("a", (3, 5), True), TensorSpec("b", (10, 2), True, stays_float32=True))
    owners = {"a": 1, "b[0:16]": 0, "b[16:20]": 2}
    specs = [(spec.name, spec.shape, spec.stays_float32, owner) for spec, owner in owned_specs(tensors, owners)]
    assert specs == [("a", (3, 5), False, 1), ("b[0:16]", (16,), True, 0), ("b[16:20]", (4,), True, 2)]
    assert owners_of({"b"}, owners) == {"b[0:16]": 0, "b[16:20]": 2}
