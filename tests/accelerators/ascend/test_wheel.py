"""dougong's Ascend files against torch_npu's own package, without CANN and without a card: what it defines, and what it
says of shapes, devices and options. Values, speed and hangs need a card."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from dougong.accelerators.npu import Npu
from dougong.ops.experts import ascend_swiglu
from tests.accelerators.ascend.inside import HIDDEN, INNER, QUESTIONS, ROWS
from tests.accelerators.ascend.wheel import Wheel, fetched
from tests.ops.experts import ascend_operators

pytestmark = pytest.mark.ascend

BY_CANN = {"LCCL_DETERMINISTIC", "CLOSE_MATMUL_K_SHIFT", "ATB_MATMUL_SHUFFLE_K_ENABLE"}
"""Variables that CANN's libraries read: nothing here can say whether they still do."""


@pytest.fixture(scope="module")
def wheel() -> Wheel:
    return fetched()


@pytest.fixture(scope="module")
def told(wheel: Wheel) -> dict[str, Any]:
    """All answers, of one process: its imports take most of the time."""
    answers: dict[str, Any] = wheel.ask(",".join(QUESTIONS))
    return answers


def test_a_device_is_opened_as_on_a_machine_with_cards(told: dict[str, Any]) -> None:
    device = told["device"]
    assert (device["opened"], device["current"], device["accelerator"]) == ("npu:1", 1, "npu")
    assert device["allow_hf32"] == [False, False] and device["deterministic"]
    assert device["name"].startswith("Ascend910") and device["memory"] > 0
    assert "device 2 is asked for, torch sees 2" in device["refused"]
    assert device["missing"] == ""  # this release of the plug-in is made for this torch
    assert device["operators"] == ["grouped_products", "single_products"]


def calls_of_the_plug_in() -> list[ast.Call]:
    """Every call of `torch.ops.npu.NAME` in the file of Ascend's experts."""
    tree = ast.parse(Path(ascend_swiglu.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).startswith("torch.ops.npu.")]


def test_every_call_of_a_fused_operator_fits_a_definition(told: dict[str, Any]) -> None:
    calls = calls_of_the_plug_in()
    names = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    assert names == set(told["schemas"]), "inside.py asks for what the file calls"
    for call in calls:
        name = ast.unparse(call.func).rpartition(".")[2]
        assert any(fits(call, one["arguments"]) for one in told["schemas"][name]), ast.unparse(call)


def fits(call: ast.Call, arguments: list[dict[str, Any]]) -> bool:
    given = {keyword.arg for keyword in call.keywords}
    by_place = [one for one in arguments if not one["keyword"]]
    taken = {one["name"] for one in by_place[: len(call.args)]}
    needed = {one["name"] for one in arguments if not one["optional"]}
    known = {one["name"] for one in arguments}
    return len(call.args) <= len(by_place) and given <= known and needed <= taken | given


def test_every_fused_operator_tells_shapes_without_computing(told: dict[str, Any]) -> None:
    assert {name: [one["meta"] for one in all_of] for name, all_of in told["schemas"].items()} == {
        "npu_swiglu": [True],
        "npu_swiglu_backward": [True],
        "npu_grouped_matmul": [True, True],
    }


def test_the_stand_ins_have_the_form_of_the_real_operators(told: dict[str, Any]) -> None:
    """By which tests/ops/experts/test_ascend_swiglu.py and simulated devices compute with numbers."""
    standing = re.findall(r"(\w+)(?=[,=)])", ascend_operators.GROUPED_MATMUL.partition("->")[0])
    real = [one["name"] for one in told["schemas"]["npu_grouped_matmul"][0]["arguments"]]
    assert [name for name in standing if name in real] == real[: len([name for name in standing if name in real])]
    assert {"x", "weight", "split_item", "group_type", "group_list"} <= set(standing)


@pytest.mark.parametrize("precision", ["torch.float32", "torch.bfloat16"])
@pytest.mark.parametrize("form", ["grouped_products", "single_products"])
def test_a_worker_s_experts_run_forward_and_backward(form: str, precision: str, told: dict[str, Any]) -> None:
    passes = [one for one in told["experts"] if one["form"] == form and one["out"][1] == precision]
    assert len(passes) == 1
    assert {name: passes[0][name] for name in ("gate_up", "inner", "out", "dx", "grad")} == {
        "gate_up": [[ROWS, 2 * INNER], precision, "npu"],
        "inner": [[ROWS, INNER], precision, "npu"],
        "out": [[ROWS, HIDDEN], precision, "npu"],
        "dx": [[ROWS, HIDDEN], precision, "npu"],
        "grad": [[HIDDEN, INNER], "torch.float32", "npu"],
    }


def test_wrong_calls_are_refused(told: dict[str, Any]) -> None:
    """So the tests above can fail."""
    assert all(told["mistakes"].values())


def test_hccl_takes_what_dougong_hands_it(told: dict[str, Any]) -> None:
    collectives = told["collectives"]
    assert collectives["default"] == Npu.backend and collectives["group"] == "ProcessGroupHCCL"
    assert collectives["timeout_s"] == 600.0
    assert collectives["abort"] and collectives["batches"] and collectives["all_to_all"]


def test_switches_that_dougong_sets_are_read_by_the_package(wheel: Wheel) -> None:
    switches = {*Npu.environment, *Npu.deterministic_environment, *(one.variable for one in Npu.defaults)}
    unread = {name for name in switches if not wheel.files_that_name(name)}
    assert unread == BY_CANN


def test_ray_hides_devices_by_the_variable_that_dougong_reads() -> None:
    from ray._private.accelerators.npu import NPUAcceleratorManager as Manager

    assert Manager.get_resource_name() == Npu.resource
    assert Manager.get_visible_accelerator_ids_env_var() == Npu.visible_devices_variable
