"""The cpu accelerator: real numbers from this machine, and what its environment does to real arithmetic."""

import os
import subprocess
import sys

import pytest
from dougong.accelerators.cpu import Cpu, mkl_environment, processor_flags


def run_worker(code: str, environment: dict[str, str]) -> str:
    """The output of `code` in a fresh process that starts with a worker's environment."""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_any_number_of_workers() -> None:
    assert Cpu().device_count() is None
    assert Cpu().resource is None
    assert Cpu().shares_machine


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ("sse2 avx2 avx512f avx512dq", "AVX512,STRICT"),
        ("sse2 avx2 avx512f", "AVX2,STRICT"),
        ("sse2", None),
        ("asimd", None),
    ],
)
def test_mkl_mode_follows_the_processor(flags: str, mode: str | None) -> None:
    assert mkl_environment(frozenset(flags.split())).get("MKL_CBWR") == mode


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_takes_the_threads(threads: int) -> None:
    assert run_worker("import torch; print(torch.get_num_threads())", Cpu().worker_environment(threads)) == str(threads)


def test_rows_of_a_product_do_not_depend_on_their_neighbours() -> None:
    """On Intel's processors, which obey the mode. Elsewhere MKL keeps a form of its own for up to three rows; there
    only the fixed shapes of our products hold (tests/ops/test_invariance.py)."""
    code = """
import torch
torch.manual_seed(0)
x_MK, w_NK = torch.rand(300, 512), torch.rand(256, 512)
whole_MN = torch.nn.functional.linear(x_MK, w_NK)
print(*(m for m in (1, 2, 3, 7, 16, 33, 150)
        if not torch.equal(torch.nn.functional.linear(x_MK[:m], w_NK), whole_MN[:m])))
"""
    environment = Cpu().worker_environment(1)
    if "MKL_CBWR" in environment:
        intel = "Intel" in Cpu().describe()["name"]
        assert set(run_worker(code, environment).split()) <= (set() if intel else {"1", "2", "3"})
    else:
        assert not {"avx2"} & processor_flags()


def test_open_switches_determinism_on() -> None:
    code = """
import torch
from dougong.accelerators.cpu import Cpu
device = Cpu().open(5)
print(device, torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
"""
    assert run_worker(code, {}) == "cpu True False"


def test_describe_names_the_processor() -> None:
    described = Cpu().describe()
    assert described["name"]
    assert described["cores"] == str(os.cpu_count())
    assert described["vector_units"] in ("avx512f", "avx2", "asimd", "none")


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_switched_on_only_where_it_is_wanted(deterministic: bool) -> None:
    code = (
        "import torch; from dougong.accelerators.cpu import Cpu; "
        f"Cpu().open(0, {deterministic}); print(torch.are_deterministic_algorithms_enabled())"
    )
    environment = Cpu().worker_environment(1, deterministic)
    assert run_worker(code, environment) == str(deterministic)
    assert deterministic or "MKL_CBWR" not in environment
