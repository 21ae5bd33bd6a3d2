"""A folder's configuration is read without its code, and says what is true of the model that is trained."""

from __future__ import annotations

import inspect
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.rule import CODE_KEYS
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.configs.of_folder import LOADER_KEYS, extra_layers, folder_config, untied_pair
from tests.families import FAMILIES, config_values, tiny_config
from tests.folders import change_config, change_weights, small_folder

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CODE = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n"
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


def with_own_code(folder: Path, **config: Any) -> Path:
    """Files of a family with code of its own; returns the marker that the code would write."""
    marker = folder / "EXECUTED"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    change_config(folder, auto_map=AUTO_MAP, **config)
    return marker


def test_a_folder_that_needs_its_own_code_is_refused_whatever_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask "Do you wish to run the custom code? [y/N]" and go by the answer."""
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    marker = with_own_code(tmp_path, model_type="own")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ModelError, match="its family 'own' needs its own code .* dougong runs none"):
        load_config(Model(path=str(tmp_path)), None)
    assert not marker.exists()


def test_a_family_that_transformers_knows_is_loaded_without_the_folders_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    marker = with_own_code(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    config = load_config(Model(path=str(tmp_path)), None)
    network = build_on_meta(config)
    assert type(network).__module__.startswith("transformers.")
    assert not marker.exists() and "auto_map" not in config.to_json_string()


@pytest.mark.parametrize(
    "asked",
    [
        {"_attn_implementation": "owner/kernel"},
        {"text_config": {"attn_implementation": "owner/kernel@main"}},
        {"attn_implementation": {"": "eager", "text_config": "owner/kernel"}},
        {"parts": [{"_experts_implementation_internal": "owner/kernel:run"}]},
    ],
)
def test_a_folder_that_asks_for_a_kernel_from_elsewhere_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    """transformers fetches and runs it wherever the package `kernels` is installed."""
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    change_config(tmp_path, **asked)
    with pytest.raises(ModelError, match="asks for code from elsewhere .*_implementation.*: .*owner/kernel"):
        load_config(Model(path=str(tmp_path)), None)


@pytest.mark.parametrize(
    "asked",
    [
        {"auto_map": AUTO_MAP},
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        {"use_kernels": True},
        {"_attn_implementation": "owner/kernel"},
    ],
)
def test_a_job_cannot_ask_for_code_either(asked: dict[str, Any], tmp_path: Path) -> None:
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    for model in (Model(path=str(tmp_path), config=asked), Model(family="qwen3_moe", config=asked)):
        with pytest.raises(ModelError, match="asks for code from elsewhere .*; dougong runs none: leave it out"):
            load_config(model, None)


def test_another_file_that_the_configuration_names_is_held_to_the_same(tmp_path: Path) -> None:
    """transformers reads it in the place of config.json."""
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    other = json.loads((tmp_path / "config.json").read_text()) | {"_attn_implementation": "owner/kernel"}
    (tmp_path / "config.4.0.0.json").write_text(json.dumps(other))
    change_config(tmp_path, configuration_files=["config.4.0.0.json"])
    with pytest.raises(ModelError, match="asks for 'owner/kernel': it is none of transformers' own forms"):
        load_config(Model(path=str(tmp_path)), None)


def test_a_job_gives_no_orders_to_the_loader_of_configurations(tmp_path: Path) -> None:
    """Those that it takes out of what it is given, by its own source."""
    from transformers import configuration_utils
    from transformers.models.auto import configuration_auto

    kind, auto = configuration_utils.PretrainedConfig, configuration_auto.AutoConfig
    functions = (
        kind.get_config_dict,
        kind._get_config_dict,
        kind.from_pretrained,
        kind.from_dict,
        auto.from_pretrained,
    )
    source = "".join(inspect.getsource(function) for function in functions)
    taken = set(re.findall(r'kwargs\.(?:pop|get)\("(\w+)"', source)) | set(
        re.findall(r'kwargs\["(_?name_or_path)"\]', source)
    )
    keys_of_models = {"num_labels"}
    assert taken - keys_of_models <= {*LOADER_KEYS, *CODE_KEYS, "attn_implementation", "experts_implementation"}
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    for key in LOADER_KEYS:
        with pytest.raises(ModelError, match=f"model.config: {key} is no key of a configuration"):
            load_config(Model(path=str(tmp_path), config={key: "x"}), None)


def untie(folder: Path, seed: int = 1) -> None:
    head = torch.randn(256, 16, generator=torch.Generator().manual_seed(seed))
    change_weights(folder, lambda tensors: tensors.update({HEAD: head}))


@pytest.mark.parametrize("layout", ["both that differ", "both alike", "head alone", "embedding alone"])
def test_a_tied_folder_is_loaded_as_transformers_does(layout: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    small_folder(tmp_path, tie_word_embeddings=True)
    match layout:
        case "both that differ":
            untie(tmp_path)
        case "both alike":
            change_weights(tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
        case "head alone":
            change_weights(tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    model = Model(path=str(tmp_path))
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    is_tied = own.lm_head.weight is own.model.embed_tokens.weight
    assert is_tied == (layout != "both that differ")
    assert load_config(model, None).tie_word_embeddings == is_tied
    assert untied_pair(model, folder_config(model)) == (None if is_tied else (HEAD, EMBEDDING))


def test_values_count_and_not_dtypes_where_tied_tensors_are_compared(tmp_path: Path) -> None:
    small_folder(tmp_path, tie_word_embeddings=True)

    def add_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors[EMBEDDING] = tensors[EMBEDDING].bfloat16()
        tensors[HEAD] = tensors[EMBEDDING].float()

    change_weights(tmp_path, add_head)
    assert load_config(Model(path=str(tmp_path)), None).tie_word_embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_ties_are_known_before_its_model_is_built(family: str) -> None:
    from dougong.models.library.transformers_internals import declared_ties, tied_names

    config = tiny_config(family, tie_word_embeddings=True)
    assert declared_ties(config) == tied_names(build_on_meta(config)) != {}
    assert declared_ties(tiny_config(family, tie_word_embeddings=False)) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_configuration_declares_layers_that_are_not_trained(family: str) -> None:
    """Some families' defaults do: deepseek_v3, deepseek_v4 and glm4_moe say that there is one."""
    config = load_config(Model(family=family, config=config_values(family)), None)
    declared = json.loads(config.to_json_string())
    assert not [key for key, value in declared.items() if ("mtp" in key or "nextn" in key) and value]


def test_a_folders_extra_layers_are_no_longer_declared(tmp_path: Path) -> None:
    small_folder(tmp_path)
    change_config(tmp_path, num_nextn_predict_layers=2, use_mtp=True)
    model = Model(path=str(tmp_path))
    assert extra_layers(folder_config(model)) == ["num_nextn_predict_layers", "use_mtp"]
    config = load_config(model, None)
    assert config.num_nextn_predict_layers == 0 and config.use_mtp is False


def test_one_number_of_extra_layers_is_told_by_one_name() -> None:
    """transformers knows a second name for it in deepseek_v3."""
    from transformers import DeepseekV3Config

    assert extra_layers(DeepseekV3Config(num_nextn_predict_layers=1)) == ["num_nextn_predict_layers"]
    with pytest.raises(ModelError, match="num_mtp_layers: deepseek_v3 is trained without"):
        load_config(Model(family="deepseek_v3", config={"num_mtp_layers": 1}), None)


def test_a_job_that_asks_for_extra_layers_is_refused() -> None:
    message = "num_nextn_predict_layers: deepseek_v3 is trained without layers that predict further tokens"
    with pytest.raises(ModelError, match=re.escape(message)):
        load_config(Model(family="deepseek_v3", config={"num_nextn_predict_layers": 1}), None)
    assert load_config(Model(family="deepseek_v3", config={"num_nextn_predict_layers": 0}), None)
