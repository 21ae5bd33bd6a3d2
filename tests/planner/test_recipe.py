"""The recipe: what besides the job's data and seeds fixes its arithmetic; how rows are put together."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

from dougong.parallel.plan import Inventory, TensorSpec
from dougong.planner.recipe import make_recipe
from tests.jobs import make_job

INVENTORY = Inventory("tiny", (), ("experts",), 8, (), 2)


def test_the_digest_follows_everything_that_changes_an_order() -> None:
    jobs = [
        make_job(),
        make_job(batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2}),
        make_job(batch={"lanes": 2, "microbatches": 1, "microbatch_size": 2}),
        make_job(expert_tile=16),
        make_job(determinism="run"),
        make_job(determinism="off"),
    ]
    recipes = [make_recipe(job, INVENTORY) for job in jobs]
    later = dataclasses.replace(recipes[0], arithmetic=recipes[0].arithmetic + 1)
    assert len({recipe.digest for recipe in [*recipes, later]}) == len(jobs) + 1


def test_where_it_runs_is_no_part_of_it() -> None:
    islands = [{"name": "west", "accelerator": "cpu", "workers": 2}]
    elsewhere = make_job(islands=islands, checkpoint={"every": 1}, steps=9)
    assert make_recipe(elsewhere, INVENTORY) == make_recipe(make_job(), INVENTORY)


def test_a_product_that_moved_between_unlike_devices_is_another_recipe() -> None:
    def arithmetic(kinds: tuple[str, ...], **changes: Any) -> int:
        islands = [{"name": f"i{n}", "accelerator": kind, "workers": 1} for n, kind in enumerate(kinds)]
        return make_recipe(make_job(islands=islands, **changes), INVENTORY).arithmetic

    assert arithmetic(("cpu", "cuda")) == arithmetic(("cpu",)) + 1
    assert arithmetic(("cuda", "cuda")) == arithmetic(("cpu",))
    at_experts = {"combine": "at_experts", "determinism": "run"}
    assert arithmetic(("cpu", "cuda"), **at_experts) == arithmetic(("cpu",), **at_experts)


def test_a_norm_is_taken_by_the_piece_where_a_tensor_has_several() -> None:
    """Models without such tensors keep the recipe that they had."""

    def norm(numel: int, *, trainable: bool = True) -> str:
        tensors = (TensorSpec("w", (numel,), trainable), TensorSpec("b", (3,), True))
        return make_recipe(make_job(), dataclasses.replace(INVENTORY, tensors=tensors)).norm

    assert norm(1 << 24) == norm(1 << 25, trainable=False) == make_recipe(make_job(), INVENTORY).norm
    assert norm((1 << 24) + 1) == "pieces of 16777216 elements, in the order of names"


def test_it_needs_no_torch() -> None:
    code = "import sys, dougong.planner.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
