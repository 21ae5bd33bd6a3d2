"""A configuration also says its values under the names that older releases of transformers read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.export import export
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.stored.older_names import with_older_names
from tests.checkpoint.saving import names_of, save, tiny_model
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB

OLDER = ("transformers==4.57.3", "tokenizers==0.22.1", "huggingface_hub<1")
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("values", "renamed", "older"),
    [
        ({"dtype": "float32"}, {}, {"torch_dtype": "float32"}),
        ({"num_local_experts": 8}, {"num_experts": "num_local_experts", "absent": "other"}, {"num_experts": 8}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
            {},
            {"rope_theta": 500.0, "rope_scaling": None, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": YARN},
            {},
            {"rope_theta": 500.0, "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}},
        ),
        ({"rope_parameters": {"full": YARN, "sliding": YARN}}, {}, {}),
        ({"rope_theta": 1.0, "num_experts": 4}, {}, {}),
    ],
)
def test_older_names_stand_beside_todays(
    values: dict[str, Any], renamed: dict[str, str], older: dict[str, Any]
) -> None:
    assert with_older_names(values, renamed) == values | older


@pytest.mark.parametrize("family", FAMILIES)
def test_todays_transformers_reads_the_same_configuration_with_and_without_them(family: str, tmp_path: Path) -> None:
    given = load_config(Model(family=family, config=config_values(family, rope_theta=500.0)), VOCAB)
    text = names_of(build_on_meta(given)).model_files["config.json"]
    assert "torch_dtype" in text and json.loads(text)["rope_theta"] == 500.0
    (tmp_path / "config.json").write_text(text)
    again = load_config(Model(path=str(tmp_path)), None)
    without = {"architectures", "_name_or_path"}
    assert {k: v for k, v in again.to_dict().items() if k not in without} == {
        k: v for k, v in given.to_dict().items() if k not in without
    }


LOAD = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import transformers
folder, ids = sys.argv[2], torch.tensor([json.loads(sys.argv[3])])
model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
theta, logits = model.config.rope_theta, model(ids).logits[0, -1].tolist()
print(json.dumps([transformers.__version__, theta, str(model.dtype), logits]))
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older transformers beside the installed packages, which it gets on with."""
    target = tmp_path_factory.mktemp("older")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *OLDER]
    subprocess.run(command, check=True, timeout=240)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "glm4_moe"])
def test_an_older_transformers_computes_the_same_from_an_export(family: str, older: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    # Its own default would be read without a word: mixtral's is 1,000,000.
    export(save(tmp_path / "run", tiny_model(family, rope_theta=500.0)), tmp_path / "out")
    ids = [5, 9, 200, 31, 7, 8, 90, 2]
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    expected = own(torch.tensor([ids])).logits[0, -1]
    command = [sys.executable, "-c", LOAD, str(older), str(tmp_path / "out"), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    version, theta, dtype, logits = json.loads(done.stdout.splitlines()[-1])
    assert (version, theta, dtype) == ("4.57.3", 500.0, "torch.float32")
    assert torch.allclose(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)
