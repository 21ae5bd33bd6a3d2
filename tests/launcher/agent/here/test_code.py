"""Digests of the source that computes: what they see, and what they must not see."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.control.channel import MAX_HELLO_BYTES
from dougong.control.handshake import AgentFacts, Hello, PackageCode
from dougong.control.messages import encode
from dougong.control.run_sources import RunSources
from dougong.job.schema import Model
from dougong.launcher.agent.here.code import code_of, model_types_of

ROOT = Path(__file__).resolve().parents[4]
PRINT = "from dougong.launcher.agent.here.code import code_of\nprint(code_of((), ())['dougong'].digests)"


def digests_in(folder: Path) -> dict[str, str]:
    """As a process finds them whose dougong lies in `folder`."""
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = eval(done.stdout)
    return found


def test_one_changed_byte_changes_its_folder_alone_wherever_the_package_lies(tmp_path: Path) -> None:
    here = code_of((), ())["dougong"].digests
    shutil.copytree(ROOT / "dougong", tmp_path / "dougong", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dougong" / "__pycache__").mkdir()
    (tmp_path / "dougong" / "__pycache__" / "x.py").write_text("x = 1\n")
    (tmp_path / "dougong" / "training" / "notes.txt").write_text("nobody imports this\n")
    assert digests_in(tmp_path) == here  # the tests' own dougong lies elsewhere
    rule = tmp_path / "dougong" / "training" / "optimizers" / "adamw.py"
    rule.write_text(rule.read_text() + "\n")
    changed = digests_in(tmp_path)
    assert [folder for folder in here if changed[folder] != here[folder]] == ["dougong/training/optimizers"]


def test_what_counts_beside_python_is_looked_at() -> None:
    found = code_of((), ())["dougong"].digests
    assert {"dougong", "dougong/job", "dougong/ops/experts", "dougong/ui/report"} <= set(found)
    assert not any("__pycache__" in folder for folder in found)


@pytest.mark.parametrize(
    ("model_type", "folder"),
    [
        ("qwen3_moe", "qwen3_moe"),
        ("qwen3_5_moe_text", "qwen3_5_moe"),
        ("minimax_m3_vl_text", "minimax_m3_vl"),
        ("openai-gpt", "openai"),
    ],
)
def test_a_family_s_code_is_found_by_its_model_type(model_type: str, folder: str) -> None:
    found = code_of((model_type,), ())["transformers"].digests
    assert f"transformers/models/{folder}" in found
    shared = {"transformers", "transformers/integrations", "transformers/utils", "transformers/models/auto"}
    assert shared <= set(found)


def test_a_type_that_nobody_knows_costs_nothing_but_its_folder() -> None:
    known, unknown = code_of((), ())["transformers"], code_of(("no_such_type",), ())["transformers"]
    assert known == unknown


def test_the_types_of_a_model_come_from_its_family_its_folder_or_the_run_s_beginning(tmp_path: Path) -> None:
    assert model_types_of(Model(family="qwen3_moe"), None) == ("qwen3_moe",)
    whole = Model(family="kimi_k25", config={"text_config": {"model_type": "deepseek_v3"}})
    assert model_types_of(whole, None) == ("kimi_k25", "deepseek_v3")
    text = '{"model_type": "qwen3_5_moe", "text_config": {"model_type": "qwen3_5_moe_text"}}'
    (tmp_path / "config.json").write_text(text)
    folder = Model(path=str(tmp_path))
    assert model_types_of(folder, None) == ("qwen3_5_moe", "qwen3_5_moe_text")
    began = RunSources({"model_type": "qwen3_moe"}, "Qwen3MoeConfig", "d")
    assert model_types_of(folder, began) == ("qwen3_moe",)
    (tmp_path / "config.json").unlink()
    assert model_types_of(folder, None) == ()


def offer(folder: Path, package: str, *points: str) -> Path:
    """A package with an accelerator of its own name, installed in `folder`."""
    (folder / package).mkdir()
    kind = f"from dougong.accelerators.cpu import Cpu\nclass Own(Cpu):\n    name = '{package}'\n"
    (folder / package / "__init__.py").write_text(kind)
    metadata = folder / f"{package}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = ["[dougong.accelerators]", f"{package} = {package}:Own", *points]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder / package


def test_an_accelerator_of_another_package_brings_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it is used: the other agents need not have it."""
    package = offer(tmp_path, "oddly_accelerated")
    monkeypatch.syspath_prepend(tmp_path)
    found = code_of((), ("cpu", "oddly_accelerated"))
    assert list(found) == ["dougong", "transformers", "oddly_accelerated"]
    assert "oddly_accelerated" not in code_of((), ("cpu",))
    before = found["oddly_accelerated"].digests
    (package / "__init__.py").rename(package / "renamed.py")  # a name counts as well as the bytes
    (package / "__init__.py").touch()
    assert code_of((), ("oddly_accelerated",))["oddly_accelerated"].digests != before


def test_a_package_of_many_folders_is_one_digest_and_an_accelerator_that_does_not_load_is_another_s_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = offer(tmp_path, "vastly_accelerated", "broken = no_such_module:Broken")
    for number in range(300):
        (package / f"part{number}").mkdir()
        (package / f"part{number}" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = code_of((), ("vastly_accelerated", "broken"))
    assert list(found) == ["dougong", "transformers", "vastly_accelerated"]
    assert list(found["vastly_accelerated"].digests) == ["vastly_accelerated"]


def test_neither_torch_nor_transformers_is_loaded() -> None:
    text = "import sys\nfrom dougong.launcher.agent.here.code import code_of\ncode_of(('qwen3_moe',), ('cpu',))\n"
    text += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_hello_with_all_of_it_stays_far_below_its_limit() -> None:
    code = code_of(("qwen3_5_moe",), ("cpu", "cuda"))
    far = {name: PackageCode("/" + "x" * 4096, package.digests) for name, package in code.items()}
    facts = AgentFacts("east", "east", "n" * 64, 1, "cpu", None, {}, {}, code=far)
    assert len(encode(Hello("p" * 64, "n" * 32, facts, 1.7e9))) < MAX_HELLO_BYTES / 3
