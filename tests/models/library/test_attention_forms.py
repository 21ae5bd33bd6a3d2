"""Forms of attention: names, what a family has, what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.library import attention_forms
from dougong.models.library.attention_forms import FORMS, forms_to_try
from dougong.models.library.transformers_internals import set_attention
from tests.families import config_values, tiny_config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def forms_of(family: str, attention: str | None) -> tuple[str, ...]:
    model = Model(family=family, config=config_values(family), attention=attention)
    return forms_to_try(build_on_meta(load_config(model, None)), attention)


def test_every_form_is_in_transformers_own_registry() -> None:
    known = {*ALL_ATTENTION_FUNCTIONS.valid_keys(), "eager"}
    assert set(FORMS.values()) <= known


@pytest.mark.parametrize(
    ("family", "attention", "forms"),
    [
        ("qwen3_moe", None, ("sdpa",)),
        ("gpt_oss", None, ("eager",)),
        ("qwen3_moe", "eager", ("eager",)),
        ("qwen3_moe", "flex", ("flex",)),
        ("qwen3_moe", "auto", ("flash", "sdpa", "flex", "eager")),
        ("gpt_oss", "auto", ("flex", "eager")),  # its flash attention is on a hub
    ],
)
def test_a_model_computes_by_the_form_that_the_job_says(
    family: str, attention: str | None, forms: tuple[str, ...]
) -> None:
    assert forms_of(family, attention) == forms


def test_a_form_that_the_family_lacks_is_refused_with_transformers_words() -> None:
    with pytest.raises(ModelError, match=r"gpt_oss: .*scaled_dot_product_attention"):
        forms_of("gpt_oss", "sdpa")


def test_flash_needs_its_package_and_nothing_is_fetched_in_its_place() -> None:
    with pytest.raises(ModelError, match=r"model\.attention: flash: the package flash_attn is not installed"):
        forms_of("qwen3_moe", "flash")


@pytest.mark.parametrize(
    ("family", "form", "reason"),
    [
        ("qwen3_moe", "flash_attention_2", "the package flash_attn is not installed here"),
        ("qwen3_moe", "flash_attention_3", "none of transformers' own forms"),
        ("qwen3_moe", "owner/kernel", "none of transformers' own forms"),
        ("gpt_oss", "flash_attention_2", "this family's comes from a hub"),
    ],
)
def test_a_form_that_would_be_fetched_is_refused(
    family: str, form: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "gpt_oss":
        monkeypatch.setattr(attention_forms, "has_flash", lambda: True)
    config = tiny_config(family)
    set_attention(config, form)
    with pytest.raises(ModelError, match=f"asks for '{form}': .*{reason}.*; dougong runs no code from elsewhere"):
        attention_forms.refuse_fetched_forms(config)


@pytest.mark.parametrize("form", ["sonicmoe", "deepgemm", "owner/kernel"])
def test_experts_and_parts_of_a_model_are_held_to_the_same(form: str) -> None:
    from transformers import Qwen3VLMoeConfig

    config = Qwen3VLMoeConfig()
    attention_forms.refuse_fetched_forms(config)
    config.text_config._experts_implementation = form
    with pytest.raises(ModelError, match=f"asks for '{form}'"):
        attention_forms.refuse_fetched_forms(config)


FAKE = """
from pathlib import Path
from types import ModuleType
class KernelizeFallback: ALL = 1
class Mode: TRAINING = 1; INFERENCE = 2
class CUDAProperties: pass
class ROCMProperties: pass
class Device:
    def __init__(self, *words, **named): pass
class LayerRepository(Device): pass
class LocalLayerRepository(Device): pass
def register_kernel_mapping(*words, **named): pass
replace_kernel_forward_from_hub = kernelize = use_kernel_mapping = register_kernel_mapping
def use_kernel_forward_from_hub(name): return lambda kind: kind
def use_kernelized_func(*functions): return lambda kind: kind
def get_kernel(name, **named):
    with Path({marker!r}).open("a") as file: print(name, file=file)
    return ModuleType("fetched")
"""
LOADS = """
import sys
from dougong.control.environment import refuse_foreign_code
if sys.argv[1] == "dougong": refuse_foreign_code()
from transformers.utils import is_kernels_available
assert is_kernels_available()
from transformers.integrations.hub_kernels import _HUB_KERNEL_MAPPING, lazy_load_kernel
lazy_load_kernel(sorted(_HUB_KERNEL_MAPPING)[0])
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from tests.families import config_values
for family in ("qwen3_moe", "qwen3_next", "gpt_oss", "mixtral"):
    build_on_meta(load_config(Model(family=family, config=config_values(family)), None))
"""


@pytest.mark.parametrize("who", ["a bare program", "dougong"])
def test_with_the_package_kernels_nothing_is_fetched_whatever_the_shell_says(who: str, tmp_path: Path) -> None:
    """A package that writes down what it is asked to fetch stands in for that which fetches and runs it."""
    (tmp_path / "kernels" / "layer").mkdir(parents=True)
    marker = tmp_path / "fetched"
    (tmp_path / "kernels" / "__init__.py").write_text(FAKE.format(marker=str(marker)))
    (tmp_path / "kernels" / "layer" / "__init__.py").write_text("")
    (tmp_path / "kernels" / "layer" / "mode.py").write_text("from kernels import Mode\n")
    facts = tmp_path / "kernels-0.18.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    shell = {"USE_HUB_KERNELS": "YES", "TRUST_REMOTE_CODE": "1", "HF_DATASETS_TRUST_REMOTE_CODE": "1"}
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path), str(Path.cwd())])
    command = [sys.executable, "-c", LOADS, who]
    subprocess.run(command, env={**os.environ, **shell, "PYTHONPATH": paths}, timeout=200, check=True)
    assert marker.exists() == (who != "dougong")
