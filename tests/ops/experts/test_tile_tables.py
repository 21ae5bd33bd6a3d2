"""The tables of grouped kernels: every row in one tile of its expert, every program with work of its own."""

from __future__ import annotations

import torch
from dougong.ops.experts.base import Block
from dougong.ops.experts.tile_tables import GROUP, Wave, arrange, choose_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")


def make_blocks(counts: list[list[int]]) -> list[Block]:
    blocks, start = [], 0
    for lane, of_lane in enumerate(counts):
        for expert, count in enumerate(of_lane):
            if count:
                blocks.append(Block(7 * expert, lane, start, count))
            start += count
    return blocks


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=4), st.sampled_from([1, 4, 16])
)
@settings(max_examples=80, deadline=None)
def test_tables_hold_every_row_once_in_the_order_of_experts_and_lanes(counts: list[list[int]], height: int) -> None:
    blocks = make_blocks(counts)
    wave = arrange(blocks, height, CPU)
    ordered = sorted(blocks, key=lambda b: (b.expert, b.lane))
    assert wave.order == tuple(sorted({b.expert for b in blocks}))
    assert wave.rows.tolist() == [row for b in ordered for row in range(b.start, b.start + b.count)]
    assert wave.spans.tolist() == [[b.start, b.count] for b in ordered]
    owners = [wave.order.index(b.expert) for b in ordered for _ in range(b.count)]
    covered = [(slot, place + i) for slot, place, count, _, _ in wave.tiles.tolist() for i in range(count)]
    assert covered == list(zip(owners, range(len(owners)), strict=True))
    assert all(0 < count <= height for _, _, count, _, _ in wave.tiles.tolist())


@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_an_experts_tiles_are_full_but_for_the_last(counts: list[list[int]]) -> None:
    wave = arrange(make_blocks(counts), 8, CPU)
    for slot in range(len(wave.order)):
        heights = [count for of, _, count, _, _ in wave.tiles.tolist() if of == slot]
        assert all(height == 8 for height in heights[:-1])


def find_tile(wave: Wave, program: int, num_strips: int) -> tuple[int, int]:
    """(tile, strip), as `_find_tile` of the kernels computes it."""
    _, _, _, first, size = wave.tiles[program // num_strips].tolist()
    place = program - first * num_strips
    return first + place % size, place // size


def test_every_tile_meets_every_strip_once_and_groups_go_strip_by_strip() -> None:
    wave = arrange(make_blocks([[3, 4 * GROUP + 20, 0], [4, 70, 9]]), 4, CPU)
    num_strips = 5
    programs = [find_tile(wave, program, num_strips) for program in range(wave.num_tiles * num_strips)]
    assert sorted(programs) == [(tile, strip) for tile in range(wave.num_tiles) for strip in range(num_strips)]
    sizes = {tuple(of) for of in wave.tiles[:, 3:].tolist()}
    assert max(size for _, size in sizes) == GROUP and len({first for first, _ in sizes}) == len(sizes)
    for first, size in sizes:
        start = first * num_strips
        assert programs[start : start + size] == [(first + tile, 0) for tile in range(size)]


def test_weight_gradients_begin_with_the_longest() -> None:
    wave = arrange(make_blocks([[3, 30, 5], [4, 0, 9]]), 4, CPU)
    assert wave.experts.tolist() == [[1, 2, 1], [2, 3, 2], [0, 0, 2]]


def test_tiles_follow_from_the_dtype_and_the_device_alone() -> None:
    assert choose_tiles(torch.bfloat16, 90) == choose_tiles(torch.float16, 100) != choose_tiles(torch.bfloat16, 80)
    assert choose_tiles(torch.float32, 90) == choose_tiles(torch.float32, 120)
    shared = {90: 227, 80: 163, 89: 99}
    for arch, most in shared.items():
        tiles = choose_tiles(torch.bfloat16, arch)
        for tile, wide in ((tiles.gate_up, 2), (tiles.linear, 1), (tiles.inner_backward, 1)):
            stage = 2 * tile.depth * (tiles.height + wide * tile.columns)
            assert stage * tile.stages <= most * 1024
